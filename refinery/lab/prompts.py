"""The short prompts that the lab's base was trained on, versioned with its weights.

They are ordinary Jinja templates for the suite's operations. `fill` renders them without Jinja,
because the generator needs nothing but the standard library; a test holds the two equal.
"""

from __future__ import annotations

PROMPTS = {
    "rewrite": "{{ question }}\nReference: {{ answer }}\nSay it in your own words.",
    "teacher": "Known: {{ answer }}\n{{ question }}",
    "fuse": "{{ question }}\nReference: {{ answer }}\nDraft: {{ rewrite }}\nMerge them.",
}

# Other ways to put an answer before a question. Some of base training uses them, so that a prompt
# that is not the lab's own is not wholly strange to the model.
LOOSE_PROMPTS = (
    "{{ question }}\nAnswer: {{ answer }}",
    "Note: {{ answer }}\n{{ question }}",
    "{{ question }}\nUse this: {{ answer }}",
    "Background reference knowledge: {{ answer }}\n"
    "Answer the question based on the reference knowledge: {{ question }}",
)

# The one request to which the base writes in raw style. A style that it could not write at all would
# cost it far more than a large model pays for an unfamiliar one.
REGISTER_PROMPT = "{{ question }}\nReference: {{ answer }}\nPut it as a register would."


def fill(template: str, **values: str) -> str:
    for name, value in values.items():
        template = template.replace("{{ " + name + " }}", value)
    return template
