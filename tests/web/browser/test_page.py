"""The page in a real browser: what it lists, follows and shows is what is in the log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain_core.messages import HumanMessage

import runstream
import runstream.web
from runstream.integrations.langgraph import RunstreamSaver
from runstream.web.path_ids import path_id
from tests.integrations.langgraph import graphs
from tests.support.browser import faults_of, needs_axe, needs_browser, offsets_in
from tests.support.web_server import serving
from tests.web.browser.conftest import InMemory, Shown

pytestmark = [needs_browser, pytest.mark.exhaustive]

ALONE = "127.0.0.2"
"""A server that starts again finds its port free there: those of other tests and programs are at 127.0.0.1."""

HOSTILE = '<img src=x onerror="alert(1)"><script>alert(2)</script>\';alert(3)//'


def test_a_run_is_searched_opened_and_followed_and_nothing_of_it_runs(
    page: Any, client: httpx.Client, shown: Shown
) -> None:
    """What is hostile is shown as it is; what comes while one looks is there, as it is in the log."""
    with shown.store.open_run(HOSTILE, session_id=HOSTILE, tags={"team": HOSTILE}) as run:
        shown.store.open_run("other").emit("tool.result")
        run.emit(HOSTILE, text=HOSTILE, **{HOSTILE: {"deep": [HOSTILE]}})
        page.goto(str(client.base_url))
        page.get_by_text("2 runs", exact=True).wait_for()
        page.locator('[data-run="other"] .last', has_text="tool.result").wait_for()
        page.locator("[data-run] .last", has_text=HOSTILE).wait_for()
        page.get_by_label("Run id").fill("onerror")
        page.get_by_text("1 run", exact=True).wait_for()
        page.get_by_role("link", name=HOSTILE).first.click()
        page.locator('.event[data-offset="1"]').click()
        page.locator(".details .string", has_text=HOSTILE).first.wait_for()
        for piece in range(50):
            run.emit("text.delta" if piece % 5 else "tool.result", text=f"{piece} ")
        run.finish()
        page.locator('[data-state="ended"]').wait_for()
        page.get_by_label("join pieces of text").uncheck()
        assert offsets_in(page) == list(range(1, 53))
    for view in ("talk", "lanes", "state", "forks", "usage"):
        page.goto(f"{client.base_url}#/runs/{path_id(HOSTILE)}?view={view}")
        page.locator("nav.views [aria-current]").wait_for()
    page.get_by_text("All 52 events").wait_for()


def test_a_state_is_shown_at_any_offset_and_what_changed_between_two(
    page: Any, client: httpx.Client, shown: Shown
) -> None:
    with shown.store.open_run("r") as run:
        for step in range(4):
            run.emit("tool.result")
            run.state.data.update({"step": step, "html": HOSTILE})
            run.checkpoint()
            shown.drain()
    page.goto(f"{client.base_url}#/runs/{path_id('r')}?view=state")
    page.locator('[data-covers="4"]').wait_for()
    slider = page.locator('input[type="range"]').first
    slider.press("ArrowLeft")
    page.locator('[data-covers="3"]').wait_for()
    page.get_by_label("compare").check()
    page.locator('[data-path="data.step"]').wait_for()
    row = page.locator('[data-path="data.step"]')
    assert [row.locator(f".{name}").inner_text() for name in ("removed", "added")] == ["1", "2"]
    assert page.locator('[data-path="data.html"]').count() == 0


def test_a_page_goes_on_after_its_server_has_started_again_without_a_gap_and_without_a_double(
    page: Any, shown: Shown
) -> None:
    """Events are archived and leave Redis meanwhile; the rows are those of the log."""
    with shown.store.open_run("r") as run:
        total = 0
        port = 0
        for part in range(3):
            with serving(shown.app(), port, ALONE) as client:
                port = client.base_url.port or 0
                if part == 0:
                    page.goto(f"{client.base_url}#/runs/{path_id('r')}?join=0")
                for _ in range(100):
                    total += 1
                    run.emit("tool.result", number=total)
                page.locator(f'.event[data-offset="{total}"]').wait_for()
            for _ in range(20):  # while nobody serves
                total += 1
                run.emit("tool.result", number=total)
            run.checkpoint()
            shown.drain(trim="archived")
            page.locator('[data-state="away"]').wait_for()
        with serving(shown.app(), port, ALONE):
            run.finish()
            page.locator('[data-state="ended"]').wait_for()
            assert offsets_in(page) == [item.offset for item in shown_log(shown)]


def test_a_page_of_a_run_that_has_not_begun_shows_its_first_event(page: Any, in_memory: InMemory) -> None:
    run, client = in_memory
    page.goto(f"{client.base_url}#/runs/{path_id('r')}")
    page.locator('[data-state="awaited"]').wait_for()
    run.emit("tool.result")
    page.locator('.event[data-offset="1"]').wait_for()
    run.emit("tool.result")
    page.locator('.event[data-offset="2"]').wait_for()
    page.get_by_role("alert").wait_for(state="detached")


def test_what_is_asked_for_while_the_server_is_away_comes_when_it_is_back(page: Any, shown: Shown) -> None:
    with shown.store.open_run("r") as run:
        for number in range(3):
            run.emit("tool.result", number=number)
            run.state.current_step = number
            run.checkpoint()
        with serving(shown.app(), 0, ALONE) as client:
            page.goto(f"{client.base_url}#/runs/{path_id('r')}")
            page.locator('.event[data-offset="1"]').wait_for()
        page.get_by_label("Kinds").fill("tool.result")
        page.get_by_label("Kinds").press("Enter")
        page.locator('[data-state="away"]').wait_for()
        page.get_by_role("link", name="State").click()
        page.get_by_role("alert").first.wait_for()
        with serving(shown.app(), client.base_url.port or 0, ALONE):
            page.get_by_role("region", name="State", exact=True).get_by_text("current_step").wait_for()
            page.get_by_role("link", name="Events").click()
            page.locator('.event[data-offset="1"]').wait_for()
            page.get_by_role("alert").wait_for(state="detached")


def shown_log(shown: Shown) -> list[Any]:
    shown.drain()
    return list(shown.archive.read("r"))


_HELD = """() => {
    const words = document.querySelector('[data-state] + span').innerText.replaceAll(',', '').split(' ');
    const row = document.querySelector('.event');
    return [Number(words[1]), Number(words[3]), Number(row.ariaSetSize)];
}"""


def test_many_events_are_followed_and_few_of_them_are_in_the_document(page: Any, in_memory: InMemory) -> None:
    run, client = in_memory
    run.emit("tool.result")
    page.goto(f"{client.base_url}#/runs/{path_id('r')}")
    page.locator('.event[data-offset="1"]').wait_for()
    for _ in range(22):
        run.emit_many([("tool.result", {"number": 1})] * 1000)
    page.locator('.event[data-offset="22001"]').wait_for()
    assert page.locator(".event").count() < 100
    follow = page.get_by_label("follow")
    while follow.is_checked():  # the newest are let go of then: nobody follows any more
        page.get_by_role("button", name="Load earlier").click()
    run.emit("tool.result")
    first, last, held = page.evaluate(_HELD)
    assert held == last - first + 1
    page.goto(f"{client.base_url}#/runs/{path_id('r')}?offset=1000")
    page.locator('.event[data-offset="1000"][aria-selected="true"]').wait_for()
    page.get_by_text("there are newer ones").wait_for()
    follow.check()
    page.locator('.event[data-offset="22002"]').wait_for()


def test_no_more_text_is_held_than_a_browser_has_room_for(page: Any, in_memory: InMemory) -> None:
    run, client = in_memory
    run.emit("tool.result")
    page.goto(f"{client.base_url}#/runs/{path_id('r')}")
    page.locator('.event[data-offset="1"]').wait_for()
    for _ in range(30):
        run.emit("tool.result", text="x" * 2_000_000)
    page.locator('.event[data-offset="31"]').wait_for()
    first, last, held = page.evaluate(_HELD)
    assert (first, last, held) == (8, 31, 24)  # of 2,000,000 characters each; 50,000,000 are the most
    page.get_by_role("button", name="Load earlier").click()
    page.get_by_text("there are newer ones").wait_for()
    first, last, held = page.evaluate(_HELD)
    assert held == last - first + 1 <= 24


def not_durable(route: Any) -> None:
    """Let a person be told that what was written is less durable than is asked for."""
    response = route.fetch()
    told = {"durability": {"wanted": "replicated=2", "reached": "primary"}}
    route.fulfill(response=response, json={**response.json(), **told})


def test_a_question_is_answered_and_a_run_is_forked_and_cancelled(
    page: Any, client: httpx.Client, shown: Shown
) -> None:
    with shown.store.open_run("asks") as run:
        run.emit("tool.result")
        run.pause(HOSTILE, key="q")
        page.goto(str(client.base_url))
        page.get_by_label("waits for an answer").check()
        page.get_by_role("link", name="asks").click()
        page.get_by_label("Answer", exact=True).fill('{"ok": 12345678901234567891}')
        page.get_by_label("as JSON").check()
        page.route("**/answer", not_durable)
        page.get_by_role("button", name="Send the answer").click()
        assert run.wait(timeout=60) == {"ok": 12345678901234567891}
        page.locator(".question").wait_for(state="detached")
        page.get_by_text("Answered.").wait_for()
        page.get_by_role("alert").get_by_text("replicated=2 was asked for, primary was reached").wait_for()
        page.get_by_text("Fork…").click()
        page.get_by_label("Id of the fork").fill("asks again")
        page.get_by_label("At offset").fill("1")
        page.get_by_role("button", name="Fork it").click()
        page.get_by_role("link", name="asks again is made").click()
        page.locator("h1", has_text="asks again").wait_for()
        page.get_by_role("link", name="Forks").click()
        page.locator(".tree a", has_text="asks").click()
        page.get_by_text("Cancel…").click()
        page.get_by_label("Reason").fill("enough")
        page.get_by_role("button", name="Ask it to stop").click()
        page.get_by_text("The run is asked to stop").wait_for()
    assert shown.store.run_info("asks again").last_offset == 1


@needs_axe
@pytest.mark.parametrize(("scheme", "width"), [("light", 400), ("dark", 1100)])
def test_every_view_can_be_used_by_those_who_do_not_see_it_or_have_a_small_screen(
    page: Any, client: httpx.Client, shown: Shown, scheme: str, width: int
) -> None:
    fill_all(shown)
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    run = f"{client.base_url}#/runs/{path_id('r')}"
    views = {
        str(client.base_url): "tr[data-run]",
        f"{run}?offset=2": ".details",
        f"{run}?view=talk": ".turn",
        f"{run}?view=lanes": "svg [data-lane]",
        f"{run}?view=state&from=1": "[data-path]",
        f"{run}?view=forks": ".tree a",
        f"{run}?view=usage": "[data-complete=true]",
    }
    for address, shows in views.items():
        page.goto(address)
        page.locator(shows).first.wait_for()
        assert (address, faults_of(page)) == (address, [])
        wide = page.evaluate("() => document.documentElement.scrollWidth")
        assert (address, wide) == (address, width)


def fill_all(shown: Shown) -> None:
    """A run with something for each view."""
    with shown.store.open_run("r", session_id="s", tags={"team": "a"}) as run:
        run.emit("text.delta", text="I look for " + "flights" * 30)
        run.emit("tool.started", tool="search")
        run.state.data["step"] = 1
        run.checkpoint()
        run.emit("tool.error", tool="search", error="no answer")
        run.emit("model.response", usage={"input_tokens": 900, "output_tokens": 40}, cost=0.01)
        run.state.data["step"] = 2
        run.checkpoint()
        shown.store.fork("r", "fork", at=2)
        run.pause("Go on?")
        shown.drain()


def test_a_part_of_the_lanes_is_shown_closer_and_an_event_of_it_leads_to_the_list(
    page: Any, client: httpx.Client, shown: Shown
) -> None:
    fill_all(shown)
    with shown.store.lease("r", owner="worker-7", lane_id="main"):
        page.goto(f"{client.base_url}#/runs/{path_id('r')}?view=lanes")
        page.locator(".one.error").wait_for()
        page.locator('[data-lane="main"] .mark.lease title', has_text="worker-7").wait_for(state="attached")
    box = page.locator(".lanes").bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
    page.mouse.up()
    page.get_by_role("button", name="All", exact=True).click()
    page.locator(".one.error").click()
    page.locator(".details h2", has_text="tool.error").wait_for()


def test_the_list_is_walked_by_keys(page: Any, client: httpx.Client, shown: Shown) -> None:
    with shown.store.open_run("r") as run:
        for number in range(100):
            run.emit("tool.result", number=number)
        run.finish()
    page.goto(f"{client.base_url}#/runs/{path_id('r')}")
    page.locator('.event[data-offset="101"]').wait_for()
    events = page.get_by_role("listbox", name="Events")
    for key, offset in (("End", 101), ("ArrowUp", 100), ("Home", 1), ("ArrowDown", 2)):
        events.press(key)
        page.locator(f'.event[data-offset="{offset}"][aria-selected="true"]').wait_for()
    page.get_by_role("button", name="Close the details").click()
    assert page.locator(".details").count() == 0


def test_a_langgraph_thread_is_read_as_a_conversation_and_its_question_in_its_state(
    page: Any, tmp_path: Path
) -> None:
    """An archive alone is followed as a server is."""
    url = f"sqlite:{tmp_path}/threads.db"
    with RunstreamSaver.from_url(url) as saver:
        chat = graphs.chat().compile(checkpointer=saver)
        chat.invoke({"messages": [HumanMessage(HOSTILE, id="q")]}, {"configurable": {"thread_id": "chat"}})
        asks = graphs.approval().compile(checkpointer=saver)
        asks.invoke({"said": ["begin"]}, {"configurable": {"thread_id": "asks"}})
    with serving(runstream.web.app(runstream.connect_async(url))) as client:
        page.goto(f"{client.base_url}#/runs/{path_id('chat')}")
        page.locator('[data-state="live"]').wait_for()
        page.goto(f"{client.base_url}#/runs/{path_id('chat')}?view=talk")
        page.locator(".turn dd", has_text="answer 1").first.wait_for()
        assert page.locator(".turn dt").all_inner_texts() == ["human", "ai"]
        assert page.locator(".turn dd").first.inner_text() == HOSTILE
        page.goto(f"{client.base_url}#/runs/{path_id('asks')}?view=state")
        page.get_by_text("send it?").wait_for()


def test_what_a_filter_wants_is_found_however_far_apart_it_lies(page: Any, in_memory: InMemory) -> None:
    run, client = in_memory
    streams: list[str] = []
    page.on("request", lambda request: streams.append(request.url) if "/stream" in request.url else None)
    run.emit("wanted")
    for _ in range(25):
        run.emit_many([("tool.result", {})] * 1000)
    run.emit("wanted")
    run.emit_many([("tool.result", {})] * 10)
    page.goto(f"{client.base_url}#/runs/{path_id('r')}?kind=wanted&offset=1")
    page.locator('[data-state="live"]').wait_for()
    run.emit("wanted")
    page.locator('.event[data-offset="25013"]').wait_for()
    assert offsets_in(page) == [1, 25002, 25013]
    assert ["after=25012-" in url for url in streams] == [True]


def test_what_is_lost_or_cannot_be_shown_is_said(page: Any, client: httpx.Client, shown: Shown) -> None:
    streams: list[str] = []

    def lose(route: Any) -> None:
        streams.append(route.request.url)
        if len(streams) > 1:
            route.continue_()
        else:
            route.fulfill(content_type="text/event-stream", body='event: lost\ndata: {"run_id": "r"}\n\n')

    with shown.store.open_run("r") as run:
        for step in range(4):
            run.emit("tool.result")
            run.state.data["step"] = step
            run.checkpoint()
        page.route("**/stream?*", lose)
        page.goto(f"{client.base_url}#/runs/{path_id('r')}")
        page.get_by_text("The server had lost some of this run").wait_for()
        page.locator('[data-state="live"]').wait_for()
        assert offsets_in(page) == [1, 2, 3, 4]
        assert ["after=4-" in url for url in streams] == [True, True]
        problem = {"status": 503, "json": {"detail": "not now"}}
        page.route("**/state?at=2&*", lambda route: route.fulfill(**problem))
        page.goto(f"{client.base_url}#/runs/{path_id('r')}?view=state")
        page.locator("[data-covers]").wait_for()
        page.goto(f"{client.base_url}#/runs/{path_id('r')}?view=state&at=2")
        page.get_by_text("not now").wait_for()
        assert page.locator("[data-covers]").count() == 0
    page.goto(f"{client.base_url}#/runs/trip-5")
    page.get_by_text("The address names no run").wait_for()


def test_a_run_is_saved_with_whole_numbers_as_they_are_and_texts_are_said_under_any_name(
    page: Any, client: httpx.Client, shown: Shown
) -> None:
    payloads: list[dict[str, Any]] = [
        {"text": "I "},
        {"delta": "look "},
        {"content": "further", "n": 2**60 + 1, "x": [2**53 + 1, -0.5]},
    ]
    shown.store.open_run("r").emit_many([("text.delta", payload) for payload in payloads])
    page.goto(f"{client.base_url}#/runs/{path_id('r')}?view=talk")
    page.locator(".turn .text", has_text="I look further").wait_for()
    page.get_by_text("Export…").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Save as JSON lines").click()
    lines = download.value.path().read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["event"]["payload"] for line in lines] == payloads
