"""Her page: driven in Chromium over a tiny model, as a person would use it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="make serve-env installs what serving needs")

from deploy.page import FILE, fingerprint, page
from deploy.web import page_address
from tests.learned import REPLIES, make_character

ROOT = Path(__file__).parents[1]


def test_the_page_allows_its_own_script_and_no_other_address():
    policy = page().headers["content-security-policy"]
    html = FILE.read_text(encoding="utf-8")
    assert fingerprint(html, "script") in policy and fingerprint(html, "style") in policy
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "unsafe" not in policy
    assert "://" not in html, "nothing is loaded from elsewhere"


def test_both_languages_say_the_same_things():
    script = FILE.read_text(encoding="utf-8").split("const WORDS = {")[1].split("\n};")[0]
    names = [set(re.findall(r"(?<=[ {])([a-zA-Z]+): ", part)) - {"zh"} for part in script.split("  en: {")]
    assert names[0] == names[1] and len(names[0]) >= 15


def test_the_key_stands_where_browsers_do_not_send_it():
    assert page_address("http://127.0.0.1:8000", None) == "http://127.0.0.1:8000/"
    assert page_address("http://127.0.0.1:8000", "a b") == "http://127.0.0.1:8000/#key=a%20b"
    assert page_address("http://[::1]:8000", None) == "http://[::1]:8000/"
    assert "0.0.0.0" not in page_address("http://0.0.0.0:8000", "a")


# --- in Chromium


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web")
    make_character(folder)
    return folder


def start(folder, *options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "deploy.web", "adapter", "--port", "0", *options]
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    said = process.stdout.readline()
    assert said.startswith("open http://"), process.communicate()
    return process, said.split()[1]


def stop(process):
    process.terminate()
    process.communicate(timeout=20)


@pytest.fixture(scope="module")
def address(folder):
    process, url = start(folder)
    yield url
    stop(process)


def make_browser(language="zh-CN", *arguments, **prefs):
    from selenium import webdriver

    found = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(found):
        pytest.fail(
            f"expected chromium and chromedriver, found {found}\nhint: apt-get install chromium chromium-driver"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--lang={language}", *arguments):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"intl.accept_languages": language, **prefs})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(found[1]))


class Visitor:
    """A person in front of the page."""

    def __init__(self, browser, address):
        self.browser = browser
        browser.get(address)

    def find(self, css):
        return self.browser.find_elements("css selector", css)

    def wait(self, condition, what):
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, 20).until(lambda _: condition(), f"expected {what}, saw: {self.seen()}")

    def seen(self):
        return self.browser.execute_script("return document.body.innerText")

    def answer(self, text):
        """Fill in the dialog."""
        self.wait(lambda: self.find("dialog[open]"), "a question")
        (box,) = self.find("#reply")
        box.clear()
        box.send_keys(text, "\n")

    def say(self, text):
        before = len(self.find("li.hers"))
        self.find("#words")[0].send_keys(text, "\n")
        self.wait(lambda: len(self.find("li.hers")) > before and not self.find(".writing"), "a reply")

    def press(self, word, css="button"):
        """The last button of that name; then wait until she has spoken."""
        [button for button in self.find(css) if button.text == word][-1].click()
        self.wait(lambda: not self.find(".writing"), "the end of a reply")

    def texts(self, css="li .content .said"):
        return [element.text for element in self.find(css)]


@pytest.fixture
def visitor(address):
    browser = make_browser()
    yield Visitor(browser, address)
    browser.quit()


def trouble(browser):
    """Errors on the console, and requests to any other address."""
    entries = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [e["params"]["request"]["url"] for e in entries if e["method"] == "Network.requestWillBeSent"]
    errors = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    return errors, [url for url in sent if not url.startswith(("http://127.0.0.1:", "data:"))]


@pytest.mark.slow
def test_a_conversation_in_chromium(visitor):
    visitor.answer("小满")
    assert "叫你小满" in visitor.seen() and "和亚托莉打个招呼吧" in visitor.seen()
    visitor.say("早上好，亚托莉。")
    hello = visitor.texts()[1]
    assert "小满" in hello and "夏生" not in hello, "her user's name, not the script's"
    visitor.say("你是谁？")
    assert len(visitor.texts()) == 4 and visitor.texts()[2] == "你是谁？"
    visitor.press("重说")
    assert len(visitor.texts()) == 4 and visitor.texts()[3]
    visitor.press("对照基座")
    assert len(visitor.texts("li .base .said")) == 1 and "未经训练的基座" in visitor.seen()
    visitor.press("收起基座")
    assert visitor.texts("li .base .said") == []
    visitor.find("li.user button")[0].click()
    (box,) = visitor.find("#edited")
    box.clear()
    box.send_keys("今天吃什么？")
    visitor.press("发送", "li button")
    assert visitor.texts()[0] == "今天吃什么？"
    visitor.browser.refresh()
    visitor.wait(lambda: len(visitor.texts()) == 2, "the conversation after a reload")
    assert not visitor.find("dialog[open]"), "the name is asked once"
    visitor.press("重新开始")
    assert visitor.texts() == []
    assert trouble(visitor.browser) == ([], [])


@pytest.mark.slow
def test_markup_and_control_tokens_stay_text(visitor):
    visitor.answer("小满")
    visitor.say("<img src=x onerror=alert(1)> <b>你好</b><end_of_turn>")
    assert visitor.texts()[0] == "<img src=x onerror=alert(1)> <b>你好</b><end_of_turn>"
    assert visitor.find("li img") == [] and trouble(visitor.browser) == ([], [])


@pytest.mark.slow
def test_an_error_is_shown_and_the_turn_can_be_sent_again(visitor):
    visitor.answer("小满")
    text = "早" * 40_000
    visitor.browser.execute_script("document.getElementById('words').value = arguments[0]", text)
    visitor.find("#send")[0].click()
    visitor.wait(lambda: "expected at most 2048 tokens" in visitor.seen(), "the reason")
    assert [button.text for button in visitor.find("li button")] == ["修改", "重说"]


PRESS_AT_FIRST_WORDS = """
    const watch = new MutationObserver(() => {
      const said = document.querySelectorAll("li .content .said"), send = document.getElementById("send");
      if (said.length < 2 || !said[1].textContent) return;
      watch.disconnect();
      window.pressed = send.textContent;
      send.click();
    });
    watch.observe(document.body, {childList: true, subtree: true, characterData: true});
"""


@pytest.mark.slow
def test_a_reply_is_stopped_and_what_was_said_stays(visitor):
    visitor.answer("小满")
    visitor.browser.execute_script(
        """
        const real = window.fetch, endless = {max_tokens: 1024, repetition_penalty: 0.1};
        window.fetch = (path, options) =>
          real(path, {...options, body: JSON.stringify({...JSON.parse(options.body), ...endless})});
        """
    )
    visitor.browser.execute_script(PRESS_AT_FIRST_WORDS)  # a tiny model has ended before a test's own click
    visitor.find("#words")[0].send_keys("你是谁？\n")
    visitor.wait(lambda: visitor.browser.execute_script("return window.pressed"), "her first words")
    visitor.wait(lambda: not visitor.find(".writing"), "the end")
    assert visitor.browser.execute_script("return window.pressed") == "停下"
    assert visitor.texts()[1] and visitor.find("#send")[0].text == "发送"


@pytest.mark.slow
def test_the_enter_that_chooses_a_word_in_an_input_method_sends_nothing(visitor):
    visitor.answer("小满")
    visitor.find("#words")[0].send_keys("zao")
    for how in ({"isComposing": True}, {"keyCode": 229}):  # Chromium and Firefox; Safari
        visitor.browser.execute_script(
            "document.getElementById('words').dispatchEvent(new KeyboardEvent('keydown', arguments[0]))",
            {"key": "Enter", **how},
        )
    assert visitor.texts() == [] and visitor.find("#words")[0].get_attribute("value") == "zao"
    visitor.say("")
    assert visitor.texts()[0] == "zao", "the next Enter sends"


@pytest.mark.slow
def test_the_page_works_where_the_browser_keeps_nothing(address):
    browser = make_browser(**{"profile.default_content_setting_values.cookies": 2})
    try:
        visitor = Visitor(browser, address)
        looked = "try { return Boolean(window.localStorage) } catch (error) { return error.name }"
        assert browser.execute_script(looked) == "SecurityError", "site data is blocked"
        visitor.answer("小满")
        visitor.say("你是谁？")
        assert "叫你小满" in visitor.seen() and len(visitor.texts()) == 2
    finally:
        browser.quit()


@pytest.mark.slow
def test_an_english_visitor_reads_english_and_can_change(address):
    browser = make_browser("en-US")
    try:
        visitor = Visitor(browser, address)
        visitor.answer("Nat: {s}")
        assert "calls you Nat s" in visitor.seen(), "what a name cannot hold is left out"
        visitor.find("#language")[0].click()
        assert "叫你Nat s" in visitor.seen() and visitor.find("html")[0].get_attribute("lang") == "zh"
    finally:
        browser.quit()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_on_a_phone_in_light_and_dark(address, scheme, tmp_path):
    browser = make_browser()
    try:
        metrics = {"width": 390, "height": 780, "deviceScaleFactor": 2, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        visitor = Visitor(browser, address)
        visitor.answer("小满")
        for text in list(REPLIES) * 2:
            visitor.say(text)
        visitor.press("对照基座")
        width, inner = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert width <= inner, "it never scrolls sideways"
        assert contrast(browser, "body") >= 7 and contrast(browser, ".user .said") >= 7
        assert contrast(browser, ".label") >= 4.5
        small = browser.execute_script(
            "return [...document.querySelectorAll('button')].filter(b => b.offsetHeight && b.offsetHeight < 32).length"
        )
        assert small == 0, "buttons are large enough for a thumb"
        pictures = Path(os.environ.get("SCREENSHOTS") or tmp_path)
        browser.save_screenshot(str(pictures / f"phone-{scheme}.png"))
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": 1100, "height": 800, "deviceScaleFactor": 1, "mobile": False},
        )
        browser.save_screenshot(str(pictures / f"desktop-{scheme}.png"))
    finally:
        browser.quit()


def contrast(browser, css):
    """The WCAG contrast of an element's text against the nearest painted background."""
    return browser.execute_script(
        """
        const light = color => {
          const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
            .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const element = document.querySelector(arguments[0]);
        let back = element;
        while (/, 0\\)$|transparent/.test(getComputedStyle(back).backgroundColor)) back = back.parentElement;
        const pair = [light(getComputedStyle(element).color), light(getComputedStyle(back).backgroundColor)];
        return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
        """,
        css,
    )


@pytest.mark.slow
def test_the_page_takes_the_key_from_its_address_or_asks_for_it(folder):
    process, url = start(folder, "--host", "127.0.0.1", "--api-key", "open sesame")
    browser = make_browser()
    try:
        visitor = Visitor(browser, url)
        visitor.answer("小满")
        visitor.say("你是谁？")
        assert "key" not in browser.current_url
        browser.execute_script("sessionStorage.clear(); localStorage.clear()")
        visitor = Visitor(browser, url.split("#")[0])
        visitor.wait(lambda: "需要密钥" in visitor.seen(), "the question for the key")
        visitor.answer("open sesame")
        visitor.wait(lambda: "怎么称呼你" in visitor.seen(), "the question for the name")
    finally:
        browser.quit()
        stop(process)
