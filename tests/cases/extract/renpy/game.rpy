define a = Character(_("ATRI"), color="#fff")
define n = Character("夏生")

label start:
    scene bg sea with fade
    a happy "早上好，[name]！{w}"
    extend "今天有雾。"
    n "「嗯。」"
    "海很安静。"
    menu:
        "出海":
            jump start
