"""What a plain text has around its speakers' names, taken off line by line so that only `name：text` remains.

[00:12] 夏生：早。          a time stamp before most lines
夏生 2020/1/1 12:00:00      a header of a chat export, the message below it
【夏生】早。                where the same names stand before colons too
<Mai> Morning.             a log
夏生｢早。｣                   half-width quotation marks
"""

import re

HEAD = 1 << 16  # characters
DAY = r"\d{1,4}[-/.年]\d{1,2}[-/.月]\d{1,4}日?"
CLOCK = r"(?:[上下]午[ ]?)?\d{1,2}[:：]\d{2}(?:[:：]\d{2})?(?:[.,]\d{1,3})?(?:[ ]?[AaPp][Mm])?"
STAMP = rf"(?:{DAY}[ ,，T]{{0,2}})?{CLOCK}"
STAMPED = re.compile(
    rf"^[ \t　]*[\[(（【]?{STAMP}(?:[ \t]*(?:-->|[-–—~～])[ \t]*{STAMP})?[\])）】]?[ \t　]*(?:[-–—|][ \t　]+)?(?=\S)",
    re.M,
)
WHO = r"[^\n\s\d：:][^\n：:]{0,39}"
HEADER = re.compile(
    rf"^(?:(?P<before>{WHO}?)[ \t　]{{1,4}}{STAMP}|{STAMP}[ \t　]{{1,4}}(?P<after>{WHO}))[ \t　]*$", re.M
)
ACCOUNT = re.compile(r"[ ]*(?:[(（]\d{4,}[)）]|<[^<>]*>)$")  # 夏生(10001), Mai<mai@example.org>
LOGGED = re.compile(r"^<([^<>/\s][^<>\n]{0,39})>[ \t]+(?=\S)", re.M)
BOLD = re.compile(r"^([ \t]*(?:[-*>][ \t]+)?)(\*\*|__)([^*_\n：:]{1,40})(?:\2([：:])|([：:])\2)", re.M)
BRACKETED = re.compile(r"^[ \t　]*[【\[［]([^【】\[\]［］：:\n]{1,40})[】\]］][ \t　]*(?=[^：:\s])", re.M)
COLON = re.compile(r"^([^\n：:【\[［]{1,40})[：:]", re.M)


def unadorned(text: str) -> str:
    """The text with its lines where they were; its head decides what they have in common."""
    text = text.replace("｢", "「").replace("｣", "」")
    head = text[:HEAD]
    lines = head.count("\n") + 1 - head.count("\n\n")
    if 5 * len(headers := HEADER.findall(head)) > lines and len(headers) > 1:
        return HEADER.sub(_label, text)
    if 2 * len(STAMPED.findall(head)) > lines:
        text = STAMPED.sub("", text)
    if 2 * len(LOGGED.findall(head)) > lines:
        text = LOGGED.sub(r"\1：", text)
    if "**" in text or "__" in text:
        text = BOLD.sub(lambda found: found[1] + found[3] + (found[4] or found[5]), text)
    return _unbracketed(text)


def _label(header: re.Match[str]) -> str:
    return ACCOUNT.sub("", header["before"] or header["after"]).strip() + "："


def _unbracketed(text: str) -> str:
    """Names that stand in brackets on some lines and before a colon on others stand before a colon on all."""
    if "】" not in text and "]" not in text and "］" not in text:
        return text
    names = {name.strip() for name in BRACKETED.findall(text)}
    names &= {name.strip() for name in COLON.findall(text)} if names else set()
    if not names:
        return text
    return BRACKETED.sub(lambda found: f"{found[1].strip()}：" if found[1].strip() in names else found[0], text)
