import { render } from "preact";
import { RunPage } from "./run_page";
import { RunsPage } from "./runs_page";
import { useRoute } from "./route";
import "./style.css";

function Page() {
  const route = useRoute();
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), document.getElementById("main")?.focus())}>
        Skip to the content
      </a>
      <header class="top">
        <a class="home" href="#/">
          runstream
        </a>
      </header>
      <main id="main" tabIndex={-1}>
        {route.id === null ? <RunsPage route={route} /> : <RunPage key={route.id} id={route.id} route={route} />}
      </main>
    </>
  );
}

render(<Page />, document.getElementById("page")!);
