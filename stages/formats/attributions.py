"""Whom an attribution beside a quotation names: 宝玉笑道：“…”, “…”黛玉道。, “…,” said Elizabeth.

Names are learnt from the attributions that leave no doubt and then looked for in the longer ones.
"""

import re
from collections import Counter
from collections.abc import Iterable

from stages.formats.message import Options

# --- Chinese

VERBS_ZH = (
    "(?:说道|问道|答道|笑道|叫道|喊道|骂道|叹道|哭道|回道|嚷道|喝道|吼道|应道|劝道|說道|問道|回答|"
    "说|道|问|答|喊|叫|骂|嚷|應|說|問|開口|开口)"
)
MORE_VERBS_ZH = (  # of a name that is known; none is learnt from them
    "(?:告诉|告訴|提醒|吩咐|嘱咐|嘀咕|嘟囔|嘟哝|咕哝|嘟嚷|自语|自語|低语|低語|耳语|附和|反驳|解释|补充|抱怨|惊呼|"
    "惊叫|大叫|尖叫|叫嚷|感叹|感慨|回(?=了?一?[句声聲]))"
)
MANNER_ZH = (  # a run of them is read in one way only: 忙忙 beside 忙 would double the ways with each word
    "(?:大(?=[叫喊骂喝])|大[喜怒惊哭]|冷笑|微笑|苦笑|大笑|陪笑|含笑|轻声|低声|小声|悄声|大声|高声|连声|厉声|柔声|接口|开口|回头|点头|摇头|"
    "回答|解释|解釋|补充|補充|提醒|吩咐|嘱咐|安慰|反驳|建议|提议|警告|抗议|抱怨|嘀咕|嘟囔|自言自语|喃喃自语|"
    "忽然|突然|急忙|连忙|立刻|于是|不禁|终于|哭着|接着|跟着|听了|见了|听说|听言|闻言|这才|只好|"
    "笑|忙|又|便|也|就|只|都|因|乃|方|却|还|再|才|先|一面|一边|着|了|向他|对他|对她|对我|向我|"
    "(?P<twice>[轻輕缓緩慢淡静靜悄默冷喃怯幽连連徐频偷呆定恨深细軟软懒闷讪])(?P=twice)地?)"
)
TELLS_ZH = "(?:问|問|告诉|告訴|提醒)"  # somebody
NAME_ZH = "[\u4e00-\u9fff]{2,4}?|[\u4e00-\u9fff]{1,6}·[\u4e00-\u9fff·]{1,8}?|[A-Z][A-Za-z]+"
SAYS_ZH = rf"{MANNER_ZH}*{VERBS_ZH}"
KNOWN_SAYS_ZH = f"(?:{VERBS_ZH}|{MORE_VERBS_ZH})"
LEARN_BEFORE_ZH = re.compile(
    rf"(?:^|[。！？!?，,；;…”」\s])(?:只见|只听|忽听|那|但是|可是|于是|然后|而后)?({NAME_ZH}){SAYS_ZH}[：:，,]?\s*$"
)
TO_ZH = "(?:[他她它我你]们?)?"
LEARN_AFTER_ZH = re.compile(rf"^({NAME_ZH}){SAYS_ZH}(?:着|著|了)?{TO_ZH}(?=[。，,！!；;]|$)")
BARE_ZH = re.compile(rf"(?:只见)?(?:{NAME_ZH}|[他她我]们?)?{SAYS_ZH}(?:着|著|了)?{TO_ZH}[：:。，,]?")
ONCE_ZH = "(?:了?一句|了?一声)?"
SAID_BEFORE_ZH = re.compile(rf"([^．。！？!?…”」]*)(?:{KNOWN_SAYS_ZH}{ONCE_ZH}{TO_ZH}[：:，,]?|：)\s*$")
SAID_AFTER_ZH = re.compile(  # not before a colon: that attribution belongs to the next quotation
    rf"[^．。！？!?“「：:]{{1,40}}?(?:{KNOWN_SAYS_ZH}(?:着|著|了)?{ONCE_ZH}{TO_ZH}|{TELLS_ZH}[\u4e00-\u9fff]{{2,4}})"
    "(?=[。，,！!；;]|$)"
)
OWN_SUBJECT_ZH = re.compile("^.?$|[只忽却猛][见見听聽]|听[见得]|有|^(?:可是|但是|于是|这时|那)")  # before a name
SAYS_ONLY_ZH = re.compile(SAYS_ZH)
OBJECT_MARKS = (  # before whom it is said to, not who says it
    "向对對见見和同与與问問给給谓謂叫喚唤命听聽把被替跟劝勸拉瞅望着了骂罵说說央求教告诉"
    "朝冲衝往到在近扶断斷等起住看过過开開從从让讓请請帮幫"
)
OBJECT_ZH = (
    "(?:(?<=[只忽][见見听聽])|(?<=猛听)|(?<=[现現好]在)|(?<=[最附相]近)|(?<=而到)|(?<=不[过過])|(?<=一起)|"
    f"(?<![{OBJECT_MARKS}])(?<!一个))"
)
OWNED_ZH = "(?!的|那里|屋里|房里|家的|太太|夫人|媳妇|媳婦|['’]s|[之他她])"  # 宝玉的丫头 is not 宝玉
EARLY = 4  # characters before the subject of a clause
CLAUSE_END_ZH = re.compile("[，,；;]")
GOES_ON_ZH = re.compile("又|再|接着|继续|繼續")
NO_NAME_ZH = re.compile(
    ".[着著了]|^[他她我你它因又都便只忽进说却且方才于不也就还再听见问那这一]|[听见说笑想问道着来去又便都忙了]$"
    "|^[一二两三四五六七八九十几众各]*(?:个人?|人|位)们?$|身$|[前罢毕时地回内日晌]$"
    "|(?<!家)的$|[点點摇搖回低抬扭转轉磕叩][着了起下]?[头頭]$|^[忙急便笑哭怒骂冷陪含满连赶拍跪站坐走拿拉对對]|^立[起住定刻即]|^开玩|大[喜怒惊笑]$|一面$"
    "|(?:吩咐|分付|寻思|思量|思想|沉吟|商议|商量|告诉|回答|嘱咐|提醒|解释|补充|嘀咕|嘟囔|自语|央告|央求|哽咽|呜咽|喝声|叹惜|叹息|感叹|暗忖|自忖|发话|开言|答言|答应)$"
    "|[禀嚷叹骂喊哭谢赞劝催]$|^[大小高厉齐连轻低柔细暗自][声叫喝骂怒惊笑哭喊想]"
    "|^(?:大家|当下|众人|有人|二人|两人|咱们|自己|对方|别人|心里|心中|口中|口里|嘴里|如此|回头|然后|而后|但是|可是|突然|叹气|抱怨|搭讪|悄悄|向[他她我你])$"
)

# --- English

VERBS_EN = (
    "(?:said|says|asked|asks|replied|replies|cried|answered|exclaimed|whispered|shouted|murmured|muttered|returned|"
    "added|continued|observed|remarked|called|yelled|screamed|sighed|began|declared|repeated|inquired|enquired|"
    "responded|interrupted|demanded|growled|laughed|snapped|insisted|admitted|agreed|suggested|warned|breathed|"
    "hissed|gasped|sobbed|snarled|thought)"
)
TITLES_EN = r"(?:(?:Mr|Mrs|Ms|Dr|St)\.?|Miss|Lady|Lord|Sir|Madame|Captain|Colonel|Aunt|Uncle|King|Queen|Professor)"
NAME_EN = rf"{TITLES_EN}(?: [A-Z][\w’'-]+){{1,2}}|[A-Z][\w’'-]+(?: [A-Z][\w’'-]+)?"
BEFORE_EN = re.compile(rf"({NAME_EN})(?: \w+ly| then| only| again| at last)? {VERBS_EN}\b[^.!?”\"]{{0,60}}[,:—]\s*$")
AFTER_EN = re.compile(
    rf"^[ ,]*(?:{VERBS_EN}(?: \w+ly)? (?:the |her |his |old |poor |little )*({NAME_EN})"
    rf"|({NAME_EN})(?: \w+ly| then| only)? {VERBS_EN}\b)"
)
UNNAMED_EN = re.compile(  # asked the captain; the old man said
    rf"^[ ,]*(?:{VERBS_EN}(?: \w+ly)? (?:the|a|an|my|his|her|their|our)\b"
    rf"|(?:[Tt]he|[Aa]n?|[Mm]y|[Hh]is|[Hh]er) (?:\w+ ){{1,3}}{VERBS_EN}\b)"
)
TAIL_EN = re.compile(rf"^[ ,]*(?:he|she|I|they|{NAME_EN}|the \w+) {VERBS_EN}\b|^[ ,]*{VERBS_EN}\b")
PRONOUN_EN = re.compile(rf"^[ ,]*(?:(?:he|she|I|they) {VERBS_EN}\b|{VERBS_EN} (?:he|she|I|they)\b)")
MOVES_EN = r"(?:sighed|smiled|laughed|nodded|shrugged|frowned|grinned|hesitated|paused|shook (?:his|her) head)"
MOVES_BEFORE_EN = re.compile(rf"^({NAME_EN}) {MOVES_EN}\b[^.!?”\"]{{0,40}}\.\s*$")
NO_NAME_EN = re.compile(
    r"(?:He|She|It|I|You|They|We|The|A|An|Then|And|But|So|There|This|That|What|When|His|Her|My|Your)\b"
)


class Naming:
    """The names of a file, learnt from what stands before and after each quotation, and whom they are found to be."""

    def __init__(self, places: Iterable[tuple[str, str]], options: Options) -> None:
        counts = Counter(name for before, after in places if (name := plain_name(before, after)))
        names = {name for name, count in counts.items() if count >= options.recurrence and not _grown(name, counts)}
        self.names = names | options.known
        longest_first = sorted(self.names, key=lambda name: (-len(name), name))
        any_name = rf"(?<![A-Za-z])(?:{'|'.join(map(re.escape, longest_first)) or '(?!)'})(?![A-Za-z])"
        self.name, self.opening = re.compile(any_name), re.compile(rf"\s*({any_name}){OWNED_ZH}(?![和与與、])")
        self.subject = re.compile(f"{OBJECT_ZH}{any_name}{OWNED_ZH}")

    def said(self, before: str, after: str) -> str | None:
        """Whom the attribution beside a quotation names; "" where it is somebody unnamed."""
        name = _english(before, after, self.names)
        return self._chinese(before, after) if name is None else name

    def _chinese(self, before: str, after: str) -> str | None:
        """The subject of the sentence that ends in a verb of saying; "" where it is elided or has no known name.

        It is the first known name in the last clause, unless that name neither opens the clause nor stands right before
        the verb and an earlier clause opens with one. Else it is in an earlier clause, early; an unknown subject of the
        verb ends the search.
        """
        said = SAID_BEFORE_ZH.search(before[-120:]) or SAID_AFTER_ZH.match(after[:80])
        if not said:
            return None
        *earlier, last = (clause.strip() for clause in CLAUSE_END_ZH.split(said[0].rstrip("：:，, 　")))
        opener = next((found[0] for clause in reversed(earlier) if (found := self.subject.match(clause))), None)
        if found := self.subject.search(last):
            own = OWN_SUBJECT_ZH.search(last[: found.start()]) or SAYS_ONLY_ZH.fullmatch(last, found.end())
            return found[0] if own or opener is None else opener
        if (stranger := plain_name(last, "")) and not self.name.search(stranger):  # 朝陆舟笑着说 names no stranger
            return ""
        early = (
            found[0]
            for clause in reversed(earlier)
            if (found := self.subject.search(clause)) and found.start() <= EARLY
        )
        return next(early, None if GOES_ON_ZH.search(said[0]) else "")

    def acting(self, narration: Iterable[str], led: bool) -> str | None:
        """The only name in the narration of a paragraph, if it opens a piece of it: `沈砚点了点头。`

        In English what follows a quotation is often how another takes it: there the name must lead the paragraph.
        """
        pieces = list(narration)
        opens = {found[1] for piece in pieces if (found := self.opening.match(piece))}
        if not opens or len({name for piece in pieces for name in self.name.findall(piece)}) > 1:
            return None
        (name,) = opens
        apart = led and self.opening.match(pieces[0]) and not any(map(PRONOUN_EN.match, pieces))
        return name if apart or not name.isascii() else None


def _grown(name: str, counts: Counter[str]) -> bool:
    """Whether it is a commoner name and a word that goes with it: 向宝玉, 扶起宝玉, 林黛玉啐."""
    return any(
        name[at - 1] in OBJECT_MARKS and counts[name[at:]] > counts[name] for at in (1, 2) if at < len(name)
    ) or (
        len(name) > 2
        and not name.isascii()
        and counts[name[:-1]] > 2 * counts[name]
        and name[-1] in "啐哼泣唱念劝叱诧惊喜怒告禀答"
    )


def plain_name(before: str, after: str) -> str | None:
    """A name that stands right beside its verb."""
    for pattern, text in (
        (LEARN_BEFORE_ZH, before[-60:]),
        (LEARN_AFTER_ZH, after[:60]),
        (AFTER_EN, after[:120]),
        (BEFORE_EN, before[-160:]),
        (MOVES_BEFORE_EN, before[:120]),
    ):
        if name := _named(pattern.search(text)):
            return None if NO_NAME_ZH.search(name) or NO_NAME_EN.match(name) else name
    return None


def _named(found: re.Match[str] | None) -> str:
    """The name that an attribution has, without the dash behind it: replied Elizabeth--"""
    return next(filter(None, found.groups()), "").rstrip("-") if found else ""


def is_bare(text: str) -> bool:
    """Whether there is nothing beside the attribution: `宝玉笑道：`, `said Elizabeth.`"""
    if text[0].isascii():
        found = AFTER_EN.match(text) or TAIL_EN.match(text)
        return found is not None and len(text) - found.end() <= 1
    return BARE_ZH.fullmatch(text) is not None


def _english(before: str, after: str, names: set[str]) -> str | None:
    """The known name beside a verb of saying; "" where an unknown name or nobody's name stands there."""
    found = (_named(AFTER_EN.search(after[:120])), _named(BEFORE_EN.search(before[-160:])))
    if known := next((name for name in found if name in names), None):
        return known
    others = any(name and not NO_NAME_EN.match(name) for name in found)
    return "" if others or UNNAMED_EN.match(after[:120]) else None
