label start(day=1, note="a:b"):
    scene bg harbour
    with fade
    play music "rain.ogg" fadein 1.0
    voice "lin_001.ogg"
    lin happy "下雨了，{i}[mc_name!t]{/i}。{w=0.5}{nw}"
    with dissolve
    extend " 你没带伞？" with vpunch
    "雨声盖住了“别的一切”。" with Dissolve(0.5)
    mc @ worried "带了\n一半。" (multiple=2, what_size=20) nointeract id start_half
    lin -smile surprised 'It\'s \"half\" an umbrella?'
    周 "谁说的[[笑]，{{伞}是[umbrella.owner]的。50%% 归我。"
    "路人甲" angry "让一让！"  # not a comment in the text
    character.cat `喵。`
    lin_far "等
        等我。"
    old_man "{rb}港{/rb}{rt}みなと{/rt}に【京｜きょう】はない。{alt}sound{/alt}"
    n r"raw \n stays"
    quest "find the umbrella"
    show text "Chapter 1" at truecenter
    show lin happy at left:
        linear 1.0 xalign 0.5
        "lin alt.png"
    lin """
    第一段。

    第二段，
    同一段。

    {clear}

    第三段。
    """
    menu ask(screen="choice"):
        set seen
        with dissolve
        lin "借你一半？"
        "好 (x)" if umbrella == ":":
            jump shared
        "不必[mc_name]" (tip="t:"):
            pass
    if rain and (day
          > 1):
        lin "还在下。"
    $ renpy.say(lin, _("写成代码也是{i}话{/i}。"), interact=True)
    $ mc("一样")
    $ log("not said")
    $ lin("sum" + mc_name)
    python:
        lin("nor this")
    lin "{w}{nw}"
    window hide
    return

label .inner:
    lin "没有关引号
    lin "下一行没事。"
    gibberish of an editor
    centered "第二天"
    lin "（他不会还给我的。）"
