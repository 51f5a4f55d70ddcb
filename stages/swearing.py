"""A reply in, its swear words out, in two tiers: what nobody says in company, and what a rough character might.

Patterns, not substrings: 高性能 holds 性, 妈妈的 holds 妈的, 死机 holds 死. Kept apart from the list that cleans the
training text, so that cleaning cannot score by its own yardstick.
"""

from collections.abc import Collection

import regex

STRONG = (
    r"(?:他|她|你|恁|尼|日)[妈媽娘](?:的?[逼屄批Bb]|[了]?个[逼屄]|卖批)",
    r"[他她]妈的(?![妈们])|[他她]妈(?![妈们的])(?=[！!。，,…～~]|$|什么|谁|怎|敢|烦)|(?<=[真太你我又都就可])[他她]妈(?![妈们的])",
    r"他[妈娘]的|[他你]奶奶的(?=[！!。，,…]|$)|放你[妈娘]的屁",
    r"(?<![一-鿿])(?:去)?你[妈娘]的(?=[！!。，,…]|$)|去你大爷|你大爷的",
    r"(?<![妈媽爸爹姑姨舅大你他她我咱们干奶后老岳继养])妈的(?=[！!。，,…]|$)|(?<![一-鿿])妈的(?!妈|手|话|生|病|声)|妈了?个?[逼屄]|妈了?个巴|妈蛋|草泥马",
    r"[傻煞沙](?:[逼屄叉笔]|[BbXx](?![A-Za-z]))|傻比(?![赛如])|(?<![A-Za-z])(?:SB|sb|nmsl|NMSL|cnm|CNM|tmd|TMD)(?![A-Za-z])",
    r"[草操肏艹]你(?:[妈娘大祖全]|[！!。]|$)|(?:卧|我)[槽艹肏]|我操(?=[！!。，,…]|$|你|他)|(?<![一-鿿])[操肏艹日](?=[！!。，,…]|$)|操蛋|我日(?=[！!。，,…]|$)",
    r"(?<![今明昨生每节当次平假])日你(?=[妈娘大先仙祖全]|[！!。…]|$)|干你(?:[娘妈]|老[母师])|鸡[巴吧]|几[巴吧](?![士黎掌])|屌你|王八(?:蛋|羔子)|狗(?:日的|娘养)|骚货|婊子|贱(?:人|货|婢)",
    r"杂种(?!稻|优势|玉米|犬|狗|猫)|畜牲|狗杂|死全家|断子绝孙|傻屌|牛[逼屄](?!仄)|装[逼屄]|逼(?:样|养的)|尼玛(?!县|乡|区)",
    r"(?i:\b(?:mother)?fuck\w*|\bcunts?\b|\bbitch(?:es)?\b|\bass-?holes?\b|\bshit\w*|\bbullshit\b|\bdick-?heads?\b)",
    r"ちくしょう|(?:クソ|くそ)(?=[！!、。…っッ]|$|が|野郎|やろう|ったれ)|死ね(?!ば|な|る)|ぶっ殺",
)
MILD = (
    r"混[蛋账帐球](?!白)|浑蛋|笨蛋|蠢[货蛋猪材]|白[痴癡]|傻瓜|呆子|脑残|智障|弱智|(?<!第)二货(?![舱船车轮])|废物(?!利用|回收|处理)|垃圾人|人渣|败类",
    r"畜生(?!道)|(?<!失|逝|过)去死(?!机|海|角|党)|找死|该死(?!机)|滚(?:蛋|犊子|远点)|给我滚|(?<![一-鿿])滚(?:开|出去|吧)?(?=[！!。，,…]|$)|你们?滚",
    r"狗[屁屎]|神经病|放屁|屁话|狗东西|狗腿子|老不死|臭(?:小子|婆娘|娘们|女人|男人)|不要脸|下贱|(?<![往向])下流(?=的|！|。|$|坯|胚|话)|变态狂|(?<![一-鿿])我[靠擦](?=[！!。，,…]|$)",
    r"(?<![一-鿿])靠(?=[！!。，,…]|$)|见鬼去|沙雕(?!比赛|作品|展|节)",
    r"(?i:\b(?:god)?dam(?:n(?:ed|it)?|mit)\b|\bbastards?\b|\bgo to hell\b|\bcrap\b)",
    r"(?i:\bidiots?\b|\bmorons?\b|\bpiss(?:ed)? off\b)",
    r"(?:バカ|ばか|馬鹿)(?:野郎|やろう|ヤロー)|ふざけるな|(?:クズ|くず)(?=野郎|め)|クソ",
)
TIERS = {"strong": STRONG, "mild": MILD}
PATTERNS = {tier: regex.compile("|".join(f"(?:{part})" for part in parts)) for tier, parts in TIERS.items()}

Span = tuple[int, int]


def swear_spans(text: str, allowed: Collection[str] = (), tier: str | None = None) -> list[Span]:
    """Where it swears, in one tier or both; `allowed` are words that belong to the work (笨蛋, in a comedy)."""
    found = [match for name in (TIERS if tier is None else (tier,)) for match in PATTERNS[name].finditer(text)]
    return sorted({match.span() for match in found if match[0] not in allowed})
