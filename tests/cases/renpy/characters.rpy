# Who speaks. Several identifiers may be one person.
define lin = Character(_("林晚"), color="#c8ffc8", image="lin")
define lin_far = Character(kind=lin, what_italic=True)
define 周 = Character("周{b}航{/b}")
define n = Character(None, what_italic=True)
default mc = DynamicCharacter("mc_name")
define character.cat = Character(
    name="猫 [cat_name]",
    what_prefix="「")

init python:
    old_man = Character('Old "Fox"', kind=nvl)
    NOTE = """
text at the margin, inside a string
"""
    renpy.register_statement("quest", parse=None)

screen phone():
    text "not said"
    textbutton "nor this":
        action Return()

style say_label:
    color "#fff"

image bg = "bg.png"
