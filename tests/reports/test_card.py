"""The report card: what it shows, what it leaves out, and what hostile text can do to it (nothing)."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from athanor.reports.card import write_report
from athanor.reports.inline import report_markdown_inline

VOID = {"meta", "link", "br", "img"}
SECTIONS = ["asked", "lineage", "data", "pretraining", "fine-tuning", "benchmarks", "maps", "samples", "cost",
            "reproduce", "versions"]  # fmt: skip


class Page(HTMLParser):
    """Elements, ids, links and text of a page; notes tags that do not nest."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.anchors: list[str] = []
        self.loads: list[str] = []
        self.open: list[str] = []
        self.badly_nested: list[str] = []
        self.attributes: list[tuple[str, dict]] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.attributes.append((tag, found))
        self.anchors += [v for k, v in attrs if k == "id" and v]
        self.loads += [v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "action", "data") and v]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.badly_nested.append(tag)


@pytest.fixture(scope="module")
def html(written) -> str:
    return (written / "report.html").read_text(encoding="utf-8")


def test_every_section_is_there_in_order_and_headed(html):
    assert re.findall(r'<section id="([^"]+)"', html) == SECTIONS
    assert [h for h in re.findall(r"<h([1-6])", html) if h in "12"] == ["1"] + ["2"] * len(SECTIONS)


def test_html_is_well_formed_with_unique_ids_and_working_inner_links(html):
    page = Page(html)
    assert not page.badly_nested and not page.open
    assert len(page.anchors) == len(set(page.anchors))
    targets = {load[1:] for load in page.loads if load.startswith("#")}
    assert targets and targets <= set(page.anchors)


def test_html_loads_nothing_from_outside_and_stays_small(html):
    page = Page(html)
    assert all(load.startswith(("#", "data:")) for load in page.loads)
    assert all(url.startswith("#") for url in re.findall(r"url\(['\"]?([^)]*)", html))
    assert "@import" not in html and "script" not in page.tags
    assert len(html.encode()) < 3_000_000


def test_every_figure_has_a_description_and_every_table_a_caption(html):
    page = Page(html)
    figures = [attributes for tag, attributes in page.attributes if tag == "svg"]
    assert len(figures) == page.tags.count("figure") > 10
    assert all(f["role"] == "img" and len(f["aria-label"]) > 20 for f in figures)
    assert page.tags.count("table") == page.tags.count("caption") > 5
    assert all("scope" in attributes for tag, attributes in page.attributes if tag == "th")


def test_figure_colours_follow_the_theme(html):
    svg = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.S))
    assert "var(--ink)" in svg and "var(--s0)" in svg and "var(--font)" in svg
    assert "#1f2933" not in svg and "#0072b2" not in svg and "DejaVu" not in svg
    assert "prefers-color-scheme: dark" in html


def summary(folder) -> str:
    """What stands above the first section of a written report."""
    return (folder / "report.md").read_text().partition("\n## ")[0]


def test_headline_numbers_are_those_of_the_run(run, html, written):
    text = summary(written)
    last = [row for row in run.pretrain_metrics if row["kind"] == "step"][-1]["tokens"]
    assert last == 1_228_800 and "1.23\u00a0M tokens" in text
    assert "1.31\u00a0M parameters" in text
    assert "base 2.1\u00a0% → SFT 41.2\u00a0%" in text and "base 0.9–4.1\u00a0%" in text
    assert all(f'<span class="value">{value}</span>' in html for value in re.findall(r"\*\*(.+?)\*\*", text))


def test_benchmarks_claim_a_difference_only_where_there_is_one_item_by_item(written):
    lines = {tuple(cells[:3]): cells for line in (written / "report.md").read_text().splitlines()
             if (cells := [cell.strip() for cell in line.strip("|").split("|")])[0] in ("sums", "choice")}  # fmt: skip
    assert lines["sums", "exact_match", "SFT"][-2:] == ["better than chance", "better than base"]
    assert lines["choice", "acc", "SFT"][-2:] == ["not told apart from chance", "not told apart from base"]
    assert lines["sums", "nats", "SFT"][-1] == "better than base"  # lower is better


def test_what_was_read_of_a_source_and_what_was_not_stands_with_the_data(written):
    markdown = (written / "report.md").read_text(encoding="utf-8")
    assert (
        "| Source | Documents | Text | Held out | Bad records | Share bad | Repeats | Files passed over |" in markdown
    )
    (row,) = (row for row in markdown.splitlines() if "1,240" in row and "| 10 |" in row)
    assert "| 2.13\u00a0MB | 43.0\u00a0kB | 10 | 0.8\u00a0% | 0 | 3 |" in row


def test_what_rows_lose_of_the_conversations_stands_with_fine_tuning(html, written):
    assert "What the rows hold of the conversations" in html
    (lost,) = [line for line in (written / "report.md").read_text().splitlines() if line.startswith("| lost |")]
    assert " ".join(lost.split()) == "| lost | 450 | 0.5 % |"


def test_money_appears_only_where_time_has_a_price(html, priced_run, tmp_path):
    write_report(priced_run, tmp_path)
    assert "$" not in summary(tmp_path).replace("\\$0.15", "")
    assert "\\$0.15" in summary(tmp_path)
    assert "$" not in re.sub(r"<pre.*?</pre>", "", html, flags=re.S)


NOTHING = {"stages": (), "model": {}, "parameters": {}, "shards": (), "mixture": None, "pretrain_metrics": (),
           "sft_metrics": (), "evaluations": (), "samples": (), "maps": {}, "versions": {}}  # fmt: skip


@pytest.mark.parametrize(
    ("part", "section"),
    [("shards", "data"), ("sft_metrics", "fine-tuning"), ("evaluations", "benchmarks"), ("samples", "samples"),
     ("versions", "versions"), (None, None)],
)  # fmt: skip
def test_parts_that_were_not_run_are_left_out(run, tmp_path, part, section):
    facts = write_report(replace(run, **{name: x for name, x in NOTHING.items() if name != part}), tmp_path)
    assert facts["sections"] == [name for name in SECTIONS if name in ("asked", section, "reproduce")]
    html = (tmp_path / "report.html").read_text()
    words = {"sft_metrics": "Fine-tuned", "evaluations": "interval", "samples": "correct", "model": "parameters",
             "pretrain_metrics": "Pretrain", "stages": "Time", "maps": "shift"}  # fmt: skip
    shown = re.sub(r"<style>.*?</style>", "", html, flags=re.S)
    assert [word for name, word in words.items() if name != part and word in shown] == []


def test_hostile_text_cannot_leave_its_place_in_html(run, html, hostile_text, tmp_path):
    assert "<script" not in html and "evil.example/a.png&gt;" in html
    first = run.pretrain_metrics[:40]
    bad = {"kind": "event", "step": 3, "message": hostile_text}
    everywhere = replace(
        run, title=hostile_text, preset=hostile_text, preset_yaml=hostile_text, command=hostile_text,
        pretrain_metrics=[*first, bad], sft_metrics=(), versions={hostile_text: hostile_text},
        stages=[replace(run.stages[0], label=hostile_text, facts={hostile_text: hostile_text}), *run.stages[1:]],
        evaluations=[run.evaluations[0] | {"label": hostile_text}],
        maps={"base": [m.model_copy(update={"title": hostile_text, "note": hostile_text, "x_label": hostile_text,
                                            "x_ticks": [hostile_text] * len(m.values[0])}) for m in run.maps["base"]]},
    )  # fmt: skip
    write_report(everywhere, tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags and not any("evil" in load for load in page.loads) and not page.badly_nested
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", (tmp_path / "report.html").read_text(encoding="utf-8"))
    for svg in (tmp_path / "figures").glob("*.svg"):
        ElementTree.parse(svg)
    plain = re.sub(r"^(`{3,}).*?^\1$", "", (tmp_path / "report.md").read_text(), flags=re.S | re.M)
    assert "<script" not in plain and "<img" not in plain


def test_every_value_of_the_model_stands_with_what_it_means(html):
    (table, _) = re.findall(r"What the model&#39;s own values mean</caption>.*?</table>", html, flags=re.S)
    rows = [re.findall(r"<td.*?>(.*?)</td>", row) for row in re.findall("<tr>(<td.*?)</tr>", table)]
    assert [row[0] for row in rows] == ["tau", "entropy_static", "entropy_dynamic", "alpha_rms"]
    assert rows[0][3] == "Temperature of the choice." and rows[3][3] == "Size of the preferences."


def test_two_answers_a_task_are_shown_of_the_models_in_turn_and_the_others_folded(run, tmp_path):
    asked = [
        {"model": model, "task": task, "prompt": f"{task} {i}", "response": "4", "expected": "4", "correct": True}
        for task in ("sums", "choice") for model in ("base", "sft") for i in range(3)
    ]  # fmt: skip
    scored = {"model": "base", "task": "bits", "prompt": "a text", "response": "log-probability -3", "expected": ""}
    write_report(replace(run, samples=[*asked, {**scored, "correct": None}]), tmp_path)
    html = (tmp_path / "report.html").read_text()
    part = html[html.index('<section id="samples"') : html.index('<section id="cost"')]
    shown = re.sub("<details>.*?</details>", "", part, flags=re.S)
    assert re.findall("<h3>(.*?) <", shown) == ["sums, base", "sums, SFT", "choice, base", "choice, SFT"]
    assert shown.count("sums 0") == shown.count("choice 0") == 2
    assert re.findall("<summary>(.*?)</summary>", part) == ["4 more of sums", "4 more of choice"]
    assert part.count("<article") == 12 and "log-probability" not in html
    text = (tmp_path / "report.md").read_text()
    assert text.count("<details>") == text.count("</details>") == 2 and text.count("```text\nsums 2\n```") == 2


def test_samples_cannot_close_their_fence_in_markdown(written, hostile_text):
    text = (written / "report.md").read_text()
    assert "````text\n<script>" in text
    outside = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", text, flags=re.S | re.M)
    assert "evil.example" not in outside


def test_markdown_tables_are_whole(written):
    text = re.sub(r"^(`{3,}).*?^\1$", "", (written / "report.md").read_text(), flags=re.S | re.M)
    tables = [t.splitlines() for t in re.findall(r"(?:^\|.*\n)+", text, flags=re.M)]
    assert len(tables) > 8
    for lines in tables:
        assert re.fullmatch(r"\|( -{3}:? \|)+", lines[1])
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_markdown_names_figures_that_exist_and_the_inline_form_carries_them(written):
    names = re.findall(r"\]\((figures/[^)]+)\)", (written / "report.md").read_text())
    assert names and all((written / name).read_bytes().startswith(b"\x89PNG") for name in names)
    assert all((written / name).with_suffix(".svg").exists() for name in names)
    inline = report_markdown_inline(written)
    assert inline.count("](data:image/png;base64,") == len(names) and "](figures/" not in inline
    assert len(inline) < 2_000_000


def test_the_same_inputs_give_the_same_bytes(run, written, tmp_path):
    write_report(run, tmp_path)
    names = sorted(p.relative_to(written) for p in written.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    assert [n for n in names if (written / n).read_bytes() != (tmp_path / n).read_bytes()] == []
