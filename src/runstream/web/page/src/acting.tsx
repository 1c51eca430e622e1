// What people say to a run, where the app lets them: answer, cancel, fork.

import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { actionsOfApp, ENDED, parse, pathId, post, runPath, type Fields, type Json, type Question, type Run } from "./api";
import { link } from "./route";

export function Acting({ run, children }: { run: Run; children: ComponentChildren }) {
  const [actions, setActions] = useState<Set<string>>(new Set());
  useEffect(() => void actionsOfApp().then(setActions), []);
  const answering = useSending(); // its outcome stays when the question goes
  const path = (action: string) => runPath(run.id, `/${action}`);
  return (
    <>
      {run.waiting_for.map((question) => (
        <Asked
          key={question.question_id}
          run={run}
          question={question}
          path={actions.has("answer") ? path("answer") : null}
          sending={answering}
        />
      ))}
      {answering.outcome}
      <div class="acting">
        {actions.has("cancel") && !ENDED.has(run.status) && <Cancel path={path("cancel")} />}
        {actions.has("fork") && <Fork run={run} path={path("fork")} />}
        {children}
      </div>
    </>
  );
}

interface Sending {
  /** Send a document, and show what became of it. */
  send: (path: string, body: Fields, then: (answer: Fields) => ComponentChildren) => void;
  outcome: ComponentChildren;
  isSending: boolean;
}

function useSending(): Sending {
  const [outcome, setOutcome] = useState<ComponentChildren>(null);
  const [isSending, setIsSending] = useState(false);
  const send: Sending["send"] = (path, body, then) => {
    setIsSending(true);
    post<Fields>(path, body)
      .then((answer) =>
        setOutcome(
          <>
            <p role="status">{then(answer)}</p>
            <Shortfall answer={answer} />
          </>,
        ),
      )
      .catch((problem: Error) => setOutcome(<p role="alert">{problem.message}</p>))
      .finally(() => setIsSending(false));
  };
  return { send, outcome, isSending };
}

/** What is written, and not as durable as the store is asked for: nobody needs to send it again. */
function Shortfall({ answer }: { answer: Fields }) {
  if (answer.durability === undefined) {
    return null;
  }
  const { wanted, reached } = answer.durability as Fields;
  return (
    <p role="alert">
      It is written, but not known to be as durable as it is to be: {String(wanted)} was asked for, {String(reached)} was reached.
    </p>
  );
}

interface AskedProps {
  run: Run;
  question: Question;
  path: string | null;
  sending: Sending;
}

function Asked({ run, question, path, sending }: AskedProps) {
  const [text, setText] = useState("");
  const [isJson, setIsJson] = useState(false);
  const [isNoJson, setIsNoJson] = useState(false);
  const { send, isSending } = sending;

  function answer(to: string): void {
    let value: Json = text;
    if (isJson) {
      try {
        value = parse<Json>(text);
      } catch {
        setIsNoJson(true);
        return;
      }
    }
    setIsNoJson(false);
    const about = { lane_id: question.lane_id, question_id: question.question_id };
    send(to, { answer: value, ...about }, (said) => (said.holds ? "Answered." : "It was answered before: that answer holds."));
  }

  return (
    <section class="question" aria-label="A question">
      <p>
        Lane {question.lane_id} asks: <strong>{question.text || "for an answer"}</strong>{" "}
        <a href={link(run.id, { offset: question.offset })}>at offset {question.offset}</a>
      </p>
      {question.answer_offset !== null && <p>It was answered; the agent has not yet gone on.</p>}
      {path !== null && question.answer_offset === null && (
        <form
          onSubmit={(event) => {
            event.preventDefault();
            answer(path);
          }}
        >
          <label>
            Answer
            <textarea rows={2} value={text} onInput={(event) => setText(event.currentTarget.value)} />
          </label>
          <label class="check">
            <input type="checkbox" checked={isJson} onChange={(event) => setIsJson(event.currentTarget.checked)} /> as JSON
          </label>
          <button disabled={isSending}>Send the answer</button>
          {isNoJson && <p role="alert">That is no JSON.</p>}
        </form>
      )}
    </section>
  );
}

function Cancel({ path }: { path: string }) {
  const [reason, setReason] = useState("");
  const { send, outcome, isSending } = useSending();
  return (
    <details>
      <summary>Cancel…</summary>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          send(path, { reason }, () => "The run is asked to stop: its agent is told at its next event.");
        }}
      >
        <label>
          Reason
          <input value={reason} onInput={(event) => setReason(event.currentTarget.value)} />
        </label>
        <button disabled={isSending}>Ask it to stop</button>
      </form>
      {outcome}
    </details>
  );
}

function Fork({ run, path }: { run: Run; path: string }) {
  const [name, setName] = useState("");
  const [at, setAt] = useState("");
  const { send, outcome, isSending } = useSending();
  return (
    <details>
      <summary>Fork…</summary>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          const offset = at === "" ? null : Number(at);
          send(path, { run_id: name, at: offset }, (made) => <a href={link(pathId(String(made.run_id)))}>{String(made.run_id)} is made</a>);
        }}
      >
        <label>
          Id of the fork
          <input required value={name} onInput={(event) => setName(event.currentTarget.value)} />
        </label>
        <label>
          At offset
          <input
            type="number"
            min="0"
            max={run.last_offset}
            placeholder={String(run.last_offset)}
            value={at}
            onInput={(event) => setAt(event.currentTarget.value)}
          />
        </label>
        <button disabled={isSending}>Fork it</button>
      </form>
      {outcome}
    </details>
  );
}
