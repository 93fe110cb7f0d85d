"""The report in a real browser: it opens without errors, filters filter, figures answer, nothing is injected."""

import base64
import hashlib
import html
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from aapo.evaluation import Evaluation, difference_rows, result_rows, save_results
from aapo.evaluation.evaluation import SAMPLE_COLUMNS
from aapo.files import write_parquet
from aapo.reporting import write_report
from aapo.runs import RunDirectory

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
HOSTILE = "</pre></details><script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of a run with hostile completions, rollouts of three steps, and an evaluation."""
    run = RunDirectory(tmp_path_factory.mktemp("page") / "run")
    run.path.mkdir()
    run.write_recipe({"fields": {"algorithm": HOSTILE}})
    run.write_manifest(seed=1)
    for step in range(1, 21):
        run.append_metrics({"step": step, "seconds": 1.0, "reward": step / 100, "rollout/accuracy": step / 20})
    for step in (1, 10, 20):
        rows = [
            {
                "step": step, "prompt_key": f"key-{group}", "prompt": HOSTILE, "gold": "2", "completion": HOSTILE,
                "completion_tokens": 5, "truncated": False, "correct": float(sample % 2), "reward": float(sample % 2),
                "advantage": 0.5, "margin": 0.1, "augmented": 0.6,
                "verdict/accuracy": "correct" if sample % 2 else "wrong", "rule/accuracy": "number",
            }
            for group in range(3)
            for sample in range(4)
        ]  # fmt: skip
        write_parquet(run.samples / f"step-{step:06d}.parquet", pa.Table.from_pylist(rows))
    models = [evaluation("base", [0, 0, 1]), evaluation("trained", [1, 0, 1])]
    save_results(run.evaluation, models, result_rows(models), difference_rows(models[1:], models[:1]), {})
    return write_report([run.path])


def evaluation(model, corrects):
    rows = [
        {
            "model": model, "task": "sums", "protocol": "p@1", "problem": str(place), "prompt_key": str(place),
            "sample": sample, "prompt": HOSTILE, "gold": "2", "completion": HOSTILE, "completion_tokens": 3,
            "finish_reason": "stop", "correct": float(correct), "extracted": HOSTILE, "verdict": "wrong",
            "rule": "text", "answer_class": 0,
        }
        for place, correct in enumerate(corrects)
        for sample in range(2)
    ]  # fmt: skip
    return Evaluation(pa.Table.from_pylist(rows, pa.schema(list(SAMPLE_COLUMNS.items()))))


def browse(path: Path, *options: str) -> tuple[str, list[str]]:
    """The page's elements once its scripts have run, as HTML, and what the browser complained of."""
    assert CHROMIUM
    result = subprocess.run(
        [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         "--window-size=1200,2000", *options, "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return result.stdout, [line for line in result.stderr.splitlines() if "CONSOLE" in line]


def driven(page: Path, script: str) -> str:
    """What the script, run on the open page, leaves in the `body`'s attribute `data-said`."""
    text = page.read_text(encoding="utf-8")
    script = f"try {{ {script} }} catch (error) {{ document.body.dataset.said = String(error); }}"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = text.replace("script-src '", f"script-src 'sha256-{digest}' '", 1)
    test = page.with_name("driven.html")
    test.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    elements, complaints = browse(test)
    assert complaints == []
    (said,) = re.findall(r'<body[^>]* data-said="([^"]*)"', elements)
    return html.unescape(said)


def test_page_opens_without_complaints_and_shows_output_as_text(page):
    elements, complaints = browse(page)
    assert complaints == []
    assert "<title>Run run – AAPO report</title>" in elements
    assert "<img" not in elements
    assert elements.count("<script") == 1
    assert html.escape(HOSTILE, quote=False) in elements


def test_filters_of_the_rollouts_filter(page):
    said = driven(
        page,
        """
        const form = document.querySelector('form[data-filters="part-1-rollouts"]');
        const shown = () => form.querySelector("output").textContent;
        const choose = (name, value) => {
          form.querySelector(`select[name=${name}]`).value = value;
          form.dispatchEvent(new Event("change"));
          return shown();
        };
        document.body.dataset.said = [shown(), choose("step", "10"), choose("verdict", "correct"),
          choose("reward", "0.00"), choose("verdict", ""), choose("step", "")].join(" | ");
        """,
    )
    # Two of three groups of four, at three steps.
    assert said.split(" | ") == [
        "24 of 24 shown", "8 of 24 shown", "4 of 24 shown", "0 of 24 shown", "4 of 24 shown", "12 of 24 shown",
    ]  # fmt: skip


def test_filter_of_the_problems_shows_where_a_model_is_ahead(page):
    said = driven(
        page,
        """
        const form = document.querySelector('form[data-filters$="-task-1"]');
        form.querySelector("select").value = "trained";
        form.dispatchEvent(new Event("change"));
        document.body.dataset.said = form.querySelector("output").textContent;
        """,
    )
    assert said == "1 of 3 shown"


POINTER = """
    const plot = document.querySelector('.plot[data-prefix$="-accuracy"]');
    const svg = plot.querySelector("svg");
    const panel = JSON.parse(plot.dataset.panels)[0];
    const [left, top, width, height] = panel.box;
    const send = (type, share) => {
      const at = new DOMPoint(left + share * width, top + height / 2).matrixTransform(svg.getScreenCTM());
      const options = { clientX: at.x, clientY: at.y, button: 0, pointerId: 1, bubbles: true };
      plot.dispatchEvent(new PointerEvent(type, options));
    };
    plot.setPointerCapture = () => {};
    const tip = () => plot.querySelector(".tip");
    const press = (key) => plot.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
"""


def test_pointer_reads_the_lines_of_a_figure(page):
    said = driven(page, f"{POINTER} send('pointermove', 0.5); document.body.dataset.said = tip().textContent;")
    # Steps 1 to 20 with 2% room on both sides: the middle is nearest to 10 or 11, whose accuracy is step / 20.
    step = int(re.match(r"at (\d+)", said)[1])
    assert step in (10, 11)
    assert f"mean over 3 steps: {step / 20:g}" in said.splitlines()


def test_drag_enlarges_a_span_and_escape_shows_all(page):
    said = driven(
        page,
        POINTER
        + """
        send("pointerdown", 0.25); send("pointermove", 0.5); send("pointerup", 0.5);
        const layer = plot.querySelector("g[transform*=scale]");
        const labels = () => [...plot.querySelectorAll(".overlay .tick")].map((tick) => tick.textContent).join(",");
        const zoomed = [layer.getAttribute("transform"), labels()];
        press("Escape");
        document.body.dataset.said = [...zoomed, layer.getAttribute("transform"), labels()].join(" | ");
        """,
    )
    transform, labels, after, gone = said.split(" | ")
    assert float(re.search(r"scale\(([\d.]+)", transform)[1]) == pytest.approx(4, rel=1e-3)
    # A quarter to a half of 0.62 to 20.38.
    assert [float(label) for label in labels.split(",")] == [6, 7, 8, 9, 10]
    assert float(re.search(r"scale\(([\d.]+)", after)[1]) == pytest.approx(1) and gone == ""


def test_arrow_keys_walk_along_a_figure(page):
    said = driven(
        page,
        f"{POINTER} press('ArrowRight'); const first = tip().textContent; press('ArrowRight'); press('ArrowRight');"
        "document.body.dataset.said = [first, tip().textContent].map((text) => text.split('\\n')[0]).join();",
    )
    assert said == "at 1,at 3"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_are_drawn(page, tmp_path, scheme):
    picture = tmp_path / "page.png"
    browse(page, f"--screenshot={picture}", f"--blink-settings=preferredColorScheme={int(scheme == 'light')}")
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    background = pixels[5, 5]
    assert (background.mean() < 60) == (scheme == "dark")
    # The figures' blue, of either scheme.
    blue = {"light": (0, 114, 178), "dark": (79, 169, 227)}[scheme]
    assert (np.abs(pixels - blue).max(-1) < 12).sum() > 200
