from __future__ import annotations

from scantling.markdown import bullets, escaped, known


def test_a_users_text_is_shown_and_never_obeyed() -> None:
    assert escaped("a|b *c* `d` [e](f) # g <script>\n") == r"a\|b \*c\* \`d\` \[e\](f) \# g &lt;script&gt; "


def test_what_is_not_recorded_is_said() -> None:
    facts = {"steps": 5, "seed": None}
    assert bullets(f"{name}: {known(facts, name)}" for name in ("steps", "seed", "recipe")) == (
        "- steps: 5\n- seed: not recorded\n- recipe: not recorded"
    )
