"""Lines of a plain text that are no message of a person: scene marks, titles, dates, choices."""

import re

NUMERAL = "[0-9０-９一二三四五六七八九十百千零〇两]{1,6}"
SEPARATOR = re.compile(r"[ \t　]*([※＊*◆◇■□●○★☆▼▲◎=＝\-－~～_＿─━—])(?:[ \t　]*\1){2,}[ \t　]*")
TITLE = re.compile(
    r"[◆◇■□▼▽§★☆#＃]+[ \t　]*(?P<marked>[^\s◆◇■□▼▽§★☆#＃].{0,60})"
    rf"|第{NUMERAL}[幕章话話回节節场場卷部](?:[\s　:：·—].{{0,40}})?"
    r"|(?:序章|序幕|终章|終章|尾声|尾聲|楔子|幕间|幕間|番外)(?:[\s　:：·—].{0,40})?"
    r"|(?:ACT|SCENE|CHAPTER|PART|Act|Scene|Chapter|Part)[ ][IVXLC\d]+\b.{0,60}"
    r"|PROLOGUE|EPILOGUE|Prologue|Epilogue"
)
DATE = re.compile(
    r"(?:[\d×]{1,4}[/.\-年])?[\d×]{1,2}[/.\-月][\d×]{1,2}日?"
    r"(?:\s*[（(].{1,3}[）)])?(?:\s*(?:星期|周).)?(?:\s*\d{1,2}[:：]\d{2})?"
)
CHOICE = re.compile(rf"(?:选项|選項|選択肢|分支)[ 　]*(?:{NUMERAL}|[A-Da-d])?[ 　]*(?:[：:．.、].*)?")
ITEM = re.compile(r"(?:[0-9１-９A-Da-d][.、．：:)）]|[①-⑨▷▶→])[ 　]*\S.*")
FIRST = frozenset(  # what a line of any of these begins with; others need no closer look
    "※＊*◆◇■□●○★☆▼▲▽◎§#＃=＝-－~～_＿─━—第序终終尾楔幕番选選分×（([【［ACSPEacspeBbDd0123456789０１２３４５６７８９①②③④⑤⑥⑦⑧⑨▷▶→"
)
