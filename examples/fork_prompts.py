"""Two prompts from one past: a run is forked where the prompts part, and what follows is compared.

    pip install runstream && python examples/fork_prompts.py

It prints::

    asks the model for a plan
    curt answers: Lisbon.
    warm answers: How about Lisbon? It is lovely in May.
    they share offsets 1 to 2
    the answers have 1 and 8 words
    state data.answer: 'Lisbon.' or 'How about Lisbon? It is lovely in May.'
    runs of the trial: ['curt', 'warm']
"""

import runstream

ANSWERS = {
    "Be curt.": "Lisbon.",
    "Be warm.": "How about Lisbon? It is lovely in May.",
}


def plan() -> list[str]:
    print("asks the model for a plan")  # it costs money: both prompts share the one answer
    return ["choose a city", "tell it"]


def speak(run: runstream.Run, prompt: str) -> None:
    run.emit("model.request", prompt=prompt)
    run.state.data["answer"] = run.once("answer", ANSWERS.__getitem__, prompt)  # a model stands here
    print(f"{run.run_id} answers: {run.state.data['answer']}")
    run.finish()


with runstream.connect("memory:forks") as store:
    with store.open_run("curt", tags={"trial": "prompts"}) as run:
        run.emit("run.started")
        run.once("plan", plan)
        run.checkpoint()
        speak(run, "Be curt.")

    store.fork("curt", "warm", at=2)  # however long the past is, nothing of it is copied
    with store.open_run("warm") as run:
        run.once("plan", plan)  # recorded in what both share
        speak(run, "Be warm.")

    diff = store.diff("curt", "warm")
    print(f"they share offsets 1 to {diff.shared_offset}")
    words = [len(store.load_latest(name).data["answer"].split()) for name in ("curt", "warm")]
    print(f"the answers have {words[0]} and {words[1]} words")
    for part in diff.state:
        if part.path.startswith("data."):
            print(f"state {part.path}: {part.old!r} or {part.new!r}")
    print("runs of the trial:", sorted(run.run_id for run in store.runs(tags={"trial": "prompts"})))
