"""The site: every public name is in its reference, every block of code on its pages runs, and no link leads nowhere."""

import dataclasses
import doctest
import functools
import importlib.util
import inspect
import json
import re
import socket
import subprocess
import sys
import tempfile
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import recorded
import torch

import snn_functional as snf


ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs"))

import _markdown  # noqa: E402
import _pages  # noqa: E402
import _reference  # noqa: E402
import make  # noqa: E402


PUBLIC = _reference.public()
# README's blocks are run by test_readme.py, those of notebooks by test_notebooks.py.
OWN = [path for path in make.sources() if path.endswith(".md") and path != "README.md"]
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.M | re.S)


@pytest.fixture(scope="module")
def pages():
    return {at: content.decode() for at, content in make.pages().items() if at.endswith(".md")}


def test_every_public_name_is_in_the_reference_once(pages):
    text = "\n".join(page for at, page in pages.items() if at.startswith("reference/"))
    names = re.findall(r"^#+ .*\{ #(\S+)[^}]*\}$", text, re.M)
    modules = {room for subject in _reference.SUBJECTS for room in subject.rooms if len(subject.rooms) > 1}
    assert sorted(name for name in names if name not in modules) == sorted(PUBLIC) and len(PUBLIC) > 350
    of_the_top = {name for name in dir(snf) if not inspect.ismodule(getattr(snf, name))}
    assert of_the_top <= set(PUBLIC) and {"encode.rate", "snn.Leaky", "snn.utils.reset", "surrogate.ATan"} <= set(
        PUBLIC
    )


def test_every_field_of_every_tree_is_explained():
    for name, (value, _) in PUBLIC.items():
        if inspect.isclass(value) and hasattr(value, "__leaves__"):
            assert {field.name for field in dataclasses.fields(value)} <= set(_markdown.fields(value.__doc__)[1]), name


def test_a_tree_is_shown_with_its_defaults_and_a_neuron_with_its_equations(pages):
    neurons = pages["reference/neurons.md"]
    assert (
        "| `threshold` | `1.0` | leaf | the neuron fires above it; in units of the input. () or (neurons,). |"
        in neurons
    )
    assert '| `reset_mechanism` | `\'subtract\'` | choice | "subtract", "zero", "clear" or "none". |' in neurons
    assert '\nmem[t] = beta mem[t-1] + input[t] - R[t] threshold   "subtract"\n' in neurons
    assert "\nklif_init(params: KlifParams, input: Tensor) -> KlifState\n" in neurons


@pytest.mark.parametrize(
    "doc, message", [(None, "without a docstring: silent"), ("Says.", "silent is public and defined in _new")]
)
def test_an_undocumented_name_stops_the_build(doc, message, monkeypatch):
    def silent():
        pass

    silent.__doc__, silent.__module__ = doc, "snn_functional._tree" if doc is None else "snn_functional._new"
    monkeypatch.setattr(snf, "silent", silent, raising=False)
    monkeypatch.setattr(snf, "__dir__", lambda: [*snf.__all__, "silent"])
    with pytest.raises(LookupError, match=message):
        _reference.pages(lambda room, at: None)


@pytest.mark.parametrize(
    "text, message",
    [
        ('<!-- include README.md "## No such heading" -->', "README.md has no line '## No such heading'"),
        ("[a](nowhere.md)", "links to nowhere.md"),
    ],
)
def test_what_is_not_there_stops_the_build(text, message):
    with pytest.raises(LookupError, match=message):
        _pages.Site({}).read(text, "docs/some.md", "some.md")


def test_links_of_a_file_lead_to_pages_of_the_site():
    site = _pages.Site(make.sources())
    text = "[how](snn_functional/_scan/README.md#stages) [source](tests/ledger.py) ![x](notebooks/sample.png) `[a](b)`"
    want = "[how](../how/scan.md#stages) source ![x](../assets/sample.png) `[a](b)`"
    assert site.read(text, "README.md", "start/x.md") == want and "assets/sample.png" in site.assets


def test_a_link_to_a_rooms_source_leads_to_its_place_in_the_reference():
    site = _pages.Site(make.sources())
    files = "losses.py", "learning/__init__.py", "__init__.py", "_chain.py"
    text = " ".join(f"[{name}](snn_functional/{file})" for name, file in zip("abcd", files))
    where = "data.md#losses", "learning.md", "index.md", "networks.md"
    want = " ".join(f"[{name}](../reference/{place})" for name, place in zip("abcd", where))
    assert site.read(text, "README.md", "start/x.md") == want


def written():
    """The Markdown of the checkout, as a code host shows it: files, and the cells of notebooks."""
    folders = [ROOT / name for name in ("docs", "snn_functional", "tests", "benchmarks", "notebooks")]
    for path in [*ROOT.glob("*.md"), *(path for folder in folders for path in folder.rglob("*.md"))]:
        yield path, path.read_text()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        yield path, "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def anchors(text):
    """Of each heading what a code host makes of it."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", prose, re.M)
    }


def test_no_link_of_the_checkout_leads_nowhere():
    seen = 0
    for path, text in written():
        code = _pages.split_code(text)
        prose = "".join(re.sub(r"[^`]", "x", piece) if i % 2 else piece for i, piece in enumerate(code))
        for *_, target in _pages.LINK.findall(prose):
            name, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            seen += 1
            file = path.parent / name if name else path
            assert file.exists(), (path, target)
            assert not anchor or anchor in anchors(file.read_text()), (path, target)
    assert seen > 100


def test_docstrings_as_markdown():
    doc = """One *line*.

        a[t] = b a[t-1]          "x"
               b                 "y"

    - `a`: first. - `b`: second, which
      goes on.

    >>> 1 + 1
    2
    """
    want = [
        r"One \*line\*.",
        '```text\na[t] = b a[t-1]   "x"\n       b          "y"\n```',
        "- `a`: first.\n- `b`: second, which goes on.",
    ]
    assert _markdown.markdown(doc) == "\n\n".join([*want, "```pycon\n>>> 1 + 1\n2\n```"])


@functools.cache
def names(path):
    """What a page's code leaves, run from top to bottom in an empty folder, as a process of torchrun that is alone."""
    space = {"__name__": "page"}
    text = (ROOT / path).read_text()
    blocks = BLOCK.findall(text)
    assert 2 * len(blocks) == sum(line.startswith("```") for line in text.splitlines())
    torch.manual_seed(0)
    sharing = torch.multiprocessing.get_sharing_strategy()
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        patch.chdir(folder)
        if path == "docs/events.md":
            recorded.nmnist_zip(Path(folder))
        patch.setenv("SNN_FUNCTIONAL_OPTIMIZE", "1")
        free.bind(("127.0.0.1", 0))
        alone = {"MASTER_ADDR": "127.0.0.1", "RANK": "0", "WORLD_SIZE": "1", "MASTER_PORT": str(free.getsockname()[1])}
        for name, value in alone.items():
            patch.setenv(name, value)
        free.close()
        for number, (marked, block) in enumerate(blocks):
            language, *needs = marked.split() or [""]
            assert language in ("python", "text", ""), (
                f"{path}: block {number} is {language}: python runs, text does not"
            )
            if language == "python" and all(map(importlib.util.find_spec, needs)):
                exec(compile(block, f"{path}[{number}]", "exec"), space)
                torch.multiprocessing.set_sharing_strategy(sharing)  # which a page may have set for all
    return space


@pytest.mark.long
@pytest.mark.parametrize("path", OWN)
def test_the_code_of_a_page_runs(path):
    names(path)


@pytest.mark.long
def test_the_training_script_learns_what_it_says():
    found = names("docs/training.md")
    model, (w, leaky, _, last) = found["model"], found["trained"]
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias", "2.weight", "2.bias", "3.beta"]
    assert w.weight.grad.abs().sum() > 0 and leaky.beta == 0.9 and last.beta != 0.9


@pytest.mark.long
def test_the_uses_are_what_they_say():
    found = names("docs/uses.md")
    assert found["samples"][0].weight.shape == (32, 64, 256) and found["ensemble"][2].weight.shape == (8, 10, 64)
    deep, tree, xs, valid = (found[name] for name in ("deep", "tree", "xs", "valid"))
    said = snf.diagnose(deep.step, tree, deep.init(tree, xs[0]), xs)
    assert not said.problems and all(abs(rate - 0.1) < 0.01 for rate in said.rates.values())
    assert not found["membranes"][~valid].any() and found["membranes"][valid].abs().min() > 0


@pytest.mark.long
def test_the_added_neuron_is_a_neuron():
    found = names("docs/CONTRIBUTING.md")
    alif, params, xs = found["alif"], found["AlifParams"](beta=0.9), torch.rand(40, 3, 5)
    spks, last = snf.scan(alif.step, params, alif.init(params, xs[0]), xs)
    first, middle = snf.scan(alif.step, params, alif.init(params, xs[0]), xs[:17])
    second, end = snf.scan(alif.step, params, middle, xs[17:])
    assert torch.equal(torch.cat([first, second]), spks) and torch.equal(end.adapt, last.adapt)
    plain = snf.scan(snf.leaky_step, snf.LeakyParams(0.9), snf.leaky_init(snf.LeakyParams(0.9), xs[0]), xs)[0]
    assert 0 < spks.sum() < plain.sum()


EXAMPLES = sorted(name for name, (value, _) in PUBLIC.items() if ">>> " in (getattr(value, "__doc__", None) or ""))


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_of_a_docstring_runs(name):
    value, where = PUBLIC[name]
    torch.manual_seed(0)
    names = {**vars(snf), **vars(sys.modules.get(getattr(value, "__module__", ""), snf)), "torch": torch, "snf": snf}
    for example in doctest.DocTestFinder(recurse=False).find(value, name, globs=names):
        assert not doctest.DocTestRunner(verbose=False).run(example).failed


class Links(HTMLParser):
    """What a page links to and loads, and what in it can be linked to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.ids = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif tag in ("script", "img", "link") and (url := given.get("src") or given.get("href")):
            self.loads.append(url)


@pytest.fixture(scope="module")
def site():
    pytest.importorskip("material", reason="mkdocs-material comes with the extra `docs`")
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "docs/make.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / "build" / "site", time.perf_counter() - start


@pytest.mark.long
def test_the_site_is_built_in_time(site):
    folder, seconds = site
    assert seconds < 60 and (folder / "index.html").exists()
    index = (folder / "search" / "search_index.js").read_text()
    assert "izhikevich_presets" in index and "Learning online" in index


@pytest.mark.long
def test_no_link_leads_nowhere_and_nothing_comes_from_the_network(site):
    folder, _ = site
    read = {path.resolve(): Links(path.read_text()) for path in folder.rglob("*.html")}
    assert len(read) > 30
    for path, page in read.items():
        for url in page.loads:
            assert not urlsplit(url).scheme and not url.startswith("//"), (path, url)
        for url in page.links + page.loads:
            parts = urlsplit(url)
            if parts.scheme or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), (path, url)
            if parts.fragment and target in read:
                assert unquote(parts.fragment) in read[target].ids | {"__skip", "__toc"}, (path, url)
