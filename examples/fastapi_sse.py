"""A FastAPI application streams a run to browsers: history, then live, and after a reconnect from where it was.

    pip install 'runstream[web,testing]' fastapi httpx && python examples/fastapi_sse.py

Here a client of our own stands for the browser's EventSource, which sends Last-Event-ID by itself. It prints::

    a browser sees run.started
    a browser sees tool.result {'city': 'Lisbon'}
    its connection breaks
    it goes on with tool.result {'hotel': 'Alpenrose'}
    it goes on with run.finished
"""

import asyncio
import base64
import json
import socket

import httpx
import uvicorn
from fastapi import FastAPI

import runstream
import runstream.web

URL = "fake:fastapi"  # redis://…, and archive="sqlite:runs.db" in connect_async for what has left Redis
app = FastAPI()


@app.post("/trips/{run_id}")
async def begin(run_id: str) -> dict:
    store = await runstream.connect_async(URL)
    run = await store.open_run(run_id)
    await run.emit("run.started")  # from now on there is something to stream
    app.state.agent = asyncio.create_task(agent(store, run))
    return {"stream": f"/runs-api/runs/{base64.urlsafe_b64encode(run_id.encode()).rstrip(b'=').decode()}/stream"}


app.mount("/runs-api", runstream.web.app(runstream.connect_async(URL)))  # authorize= says who may see which run


async def agent(store: runstream.AsyncStore, run: runstream.AsyncRun) -> None:
    async with store, run:
        for found in ({"city": "Lisbon"}, {"hotel": "Alpenrose"}):
            await asyncio.sleep(0.05)  # a model thinks
            await run.emit("tool.result", **found)
        await run.finish()


async def browser(client: httpx.AsyncClient, path: str, says: str, last: str = "", stop_after: int = 9) -> str:
    """Read a stream of server-sent events after the one with that id; gives the id of the last that it saw."""
    async with client.stream("GET", path, headers={"Last-Event-ID": last} if last else {}) as stream:
        stream.raise_for_status()
        async for line in stream.aiter_lines():
            last = line.removeprefix("id: ") if line.startswith("id: ") else last
            if line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                print(f"{says} {event['kind']} {event['payload'] or ''}".rstrip())
                stop_after -= 1
            if not stop_after or line.startswith("event: "):  # "event: end": no more will come
                break
    return last


async def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        serving = asyncio.create_task(server.serve([listener]))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            path = (await client.post("/trips/trip-42")).json()["stream"]
            last = await browser(client, path, "a browser sees", stop_after=2)
            print("its connection breaks")
            await browser(client, path, "it goes on with", last)
        server.should_exit = True
        await serving


if __name__ == "__main__":
    asyncio.run(main())
