"""The report's page in Chromium: what a reader does with it, in both languages, light and dark, on a phone."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stages.report import page
from tests.test_report import EVIL, TEMPLATE, cell, reply, reports  # noqa: F401 (a fixture)
from tests.test_web import contrast, make_browser

ui = pytest.importorskip("selenium.webdriver.support.ui", reason="make serve-env installs what drives a browser")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CURVES = "step\ttrain_loss\tvalidation_bits_per_character\n0\t\t5.9\n1\t5.1\t\n2\t4.2\t4.8\n"
PHONE = {"width": 390, "height": 780, "deviceScaleFactor": 2, "mobile": True}
DESK = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}


def probe(kind, number, said, *seen):
    row = {"id": f"{kind}/{number}", "source": "probe", "kind": kind, "decoding": "chat", "context": [], "real": None}
    return {**row, "asks": ["你是谁？"], "adapter": {**reply(said, *seen), "passed": not seen}, "base": reply("我。")}


@pytest.fixture
def address(reports, tmp_path):  # noqa: F811
    said = [probe("weapon", n, f"第{n}句") for n in range(30)]
    reports["replies"] += [*said, probe("role", 0, "我是ATRI语言模型。", ("role", 2, 10))]
    cards = reports["metrics"]["scorecard"]
    cards["role"] = {**cards["role"], "real": cell(0.05)}  # neither good nor bad
    (tmp_path / "report.html").write_text(page(reports, TEMPLATE), encoding="utf-8")
    return (tmp_path / "report.html").as_uri()


@pytest.fixture
def browser(address):
    browser = make_browser("en-US")
    browser.get(address)
    yield browser
    browser.quit()


def seen(browser, css="body"):
    return browser.execute_script("return document.querySelector(arguments[0]).innerText", css)


def choose(browser, name, value):
    browser.execute_script(
        """
        const field = document.getElementById(arguments[0]);
        field.value = arguments[1];
        field.dispatchEvent(new Event("input"));
        """,
        name,
        value,
    )


def shown(browser):
    return len(browser.find_elements("css selector", ".reply"))


def requests(browser):
    """The addresses, other than files, that were asked for."""
    entries = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [e["params"]["request"]["url"] for e in entries if e["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith(("file:", "data:"))]


def test_every_label_changes_with_the_language(browser):
    assert "The six known failures" in seen(browser) and "六种已知的毛病" not in seen(browser)
    assert "“A weapon”" in seen(browser, "#kind") and "30" not in seen(browser, "#kind")
    browser.find_element("id", "lang").click()
    assert "六种已知的毛病" in seen(browser) and "The six known failures" not in seen(browser)
    assert seen(browser, "#kind").split() == ["全部", "留出台词", "自称兵器", "跳出角色"]
    assert seen(browser, "#count") == "32 条中的 32 条"
    assert browser.find_element("tag name", "html").get_attribute("lang") == "zh-CN"
    assert browser.find_element("id", "search").get_attribute("placeholder") == "在回复与上文中搜索"


def test_a_reader_who_reads_chinese_sees_chinese_first(address):
    browser = make_browser("zh-CN")
    try:
        browser.get(address)
        assert "六种已知的毛病" in seen(browser)
    finally:
        browser.quit()


def test_the_browser_of_replies_narrows_and_says_how_many(browser):
    assert (seen(browser, "#count"), shown(browser)) == ("32 of 32 replies", 20)
    browser.find_element("id", "more").click()
    assert shown(browser) == 32 and not browser.find_element("id", "more").is_displayed()
    choose(browser, "kind", "weapon")
    assert (seen(browser, "#count"), shown(browser)) == ("30 of 32 replies", 20)
    browser.find_element("id", "search").send_keys("第7句")
    assert (seen(browser, "#count"), shown(browser)) == ("1 of 32 replies", 1)
    browser.find_element("id", "lang").click()
    assert (seen(browser, "#count"), shown(browser)) == ("32 条中的 1 条", 1), "the choice outlives the language"


def test_the_search_minds_no_case_and_the_marks_say_what_was_seen(browser):
    browser.find_element("id", "search").send_keys("atri")
    assert seen(browser, "#count") == "1 of 32 replies"
    assert seen(browser, ".sides .adapter mark") == "ATRI语言模型"
    assert seen(browser, ".sides .adapter .tag") == "Out of role" and "adapter ✗" in seen(browser, ".sides .adapter")
    assert "base" in seen(browser, ".sides .base"), "side by side"
    choose(browser, "search", "")
    browser.find_element("id", "seen").click()
    assert seen(browser, "#count") == "2 of 32 replies", "the line of markup and the model's name"


def test_markup_of_the_script_stays_text(browser):
    choose(browser, "kind", "held_out")
    assert EVIL in seen(browser, ".said") and seen(browser, ".sides .adapter p") == EVIL
    browser.execute_script("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert EVIL in seen(browser, "#scorecard") and EVIL in seen(browser, "#rules") and EVIL in seen(browser, "#sources")
    scripts = "return [...document.scripts].map(script => script.id || script.type)"
    assert browser.execute_script(scripts) == ["rows", ""], "the data and the page's own script"


def test_the_policy_stops_any_other_script_and_any_request(browser):
    browser.execute_script(
        """
        const script = document.createElement("script");
        script.textContent = "document.title = 'run'";
        document.body.append(script);
        """
    )
    assert browser.title == "亚托莉 report"
    blocked = [entry["message"] for entry in browser.get_log("browser")]
    assert len(blocked) == 1 and "Content Security Policy" in blocked[0], "the page itself says nothing"
    address = "http://127.0.0.1:9/"
    failed = browser.execute_async_script("fetch(arguments[0]).catch(error => arguments[1](String(error)))", address)
    assert "Failed to fetch" in failed and "connect-src" in browser.get_log("browser")[0]["message"]


def test_reading_asks_for_nothing(browser):
    for name, value in (("kind", "weapon"), ("decoding", "chat"), ("search", "句")):
        choose(browser, name, value)
    browser.find_element("id", "lang").click()
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert requests(browser) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_on_a_phone_in_light_and_dark(browser, scheme, tmp_path):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    pictures = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    for name, size in (("phone", PHONE), ("desk", DESK)):
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.refresh()
        browser.execute_script("document.querySelectorAll('details').forEach(part => part.open = true)")
        for _ in ("English", "Chinese"):
            width, inner = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
            assert width <= inner, f"{name}: it never scrolls sideways"
            browser.find_element("id", "lang").click()
        browser.save_screenshot(str(pictures / f"report-{name}-{scheme}.png"))
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 28)"
    assert dark == (scheme == "dark")
    assert contrast(browser, "body") >= 7 and contrast(browser, ".sides .adapter") >= 7
    parts = ("nav a", "th", "td", ".fair", ".bad", ".good", "small.range", "q.ask", ".said", "mark", ".tag", "del")
    assert {css: contrast(browser, css) for css in parts if contrast(browser, css) < 4.5} == {}


@pytest.fixture
def plots(tmp_path):
    """What `dvc plots show` writes for this project's own configuration and stages."""
    (tmp_path / ".dvc").mkdir()
    shutil.copytree(ROOT / ".dvc" / "plots", tmp_path / ".dvc" / "plots")
    for name in (".dvc/config", "dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "train.tsv").write_text(CURVES, encoding="utf-8")
    dvc = Path(sys.executable).parent / "dvc"
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    subprocess.run([dvc, "plots", "show", "-q"], cwd=tmp_path, env=environment, check=True)
    return tmp_path / "dvc_plots" / "index.html"


def test_dvc_plots_draw_offline(plots):
    html = plots.read_text(encoding="utf-8")
    assert re.findall(r"<(?:script|link)[^>]*(?:src|href)=", html) == [], "its scripts are inside"
    assert len(html) < 1_500_000
    assert "datum['train_loss'] !== ''" in html, "a step without a loss is no loss of 0"
    browser = make_browser("en-US")
    try:
        browser.get(plots.as_uri())
        drawn = ".vega-embed canvas, .vega-embed svg"
        ui.WebDriverWait(browser, 20).until(
            lambda _: browser.find_elements("css selector", drawn), browser.get_log("browser")
        )
        assert len(browser.find_elements("css selector", ".vega-embed")) == 2, "the loss and the validation"
        assert browser.get_log("browser") == []
        assert requests(browser) == []
    finally:
        browser.quit()
