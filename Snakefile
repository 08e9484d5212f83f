# Which notebook makes what from what: the only place that knows the order.
#   python -m covidlib run --profile demo          the usual way in
#   snakemake --cores 2 --config profile=demo      the same, by hand
import os
import sys
from shlex import quote
from covidlib.dataset import IMAGES, MASKS
from covidlib.profile import lineage, load_profile
from covidlib.runs import ROOT
from covidlib.workflow import training_threads


def word(text):
    """As the shell and Snakemake read it: whatever is in a path stays in it."""
    return quote(text).replace("{", "{{").replace("}", "}}")


name, data, out = (str(config.get(key) or default) for key, default in (("profile", "demo"), ("data", ""), ("out", "")))
settings = load_profile(name)
RUN = Path(out or ROOT / "runs" / settings.name)
ALL = list(range(settings.folds.number))
FOLDS = [int(fold) for fold in str("" if config.get("folds") is None else config["folds"]).split(",") if fold] or ALL

FIRST = settings.training.begin_with
PROFILE = list(map(str, lineage(name)))
SCANS = sorted(str(path) for sub in (IMAGES, MASKS) for path in (Path(data) / sub).glob("*.nii*")) if data else []
# a file may come in place of another and be older than it: copied with its date, unpacked, moved
STAMPS = [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in SCANS + PROFILE]
THREADS = {"cores": workflow.cores, "cases": len(SCANS) // 2 or 20}
GIVEN = {"--profile": name, "--data": data, "--out": out}
CHOSEN = " ".join(f"{option} {word(value)}" for option, value in GIVEN.items() if value)
ONLY = "" if FOLDS == ALL else "--folds " + ",".join(map(str, FOLDS))
COVIDLIB = f"{word(sys.executable)} -m covidlib"
# glibc gives a thread's memory back after a large array and gets it anew, page by page, unless it keeps some: a tenth of the time
KEPT = "MALLOC_TOP_PAD_=67108864"


def modules(*names):
    return [str(ROOT / "covidlib" / f"{name}.py") for name in (*names, "profile", "runs", "files", "workflow")]


def notebook(name):
    return str(ROOT / "notebooks" / f"{name}.ipynb")


VIEWER = modules("viewer") + [str(ROOT / "covidlib" / f"viewer.{ending}") for ending in ("js", "css")]  # baked into the notebooks
DATA = ["dataset", "phantom", "preprocessing"]
TRAINING = [*DATA, "patches", "augmentation", "batches", "network", "engine", "losses", "training", "inference", "postprocessing"]


rule all:
    input:
        [str(RUN / "notebooks" / f"{page}.ipynb") for page in
         ("01_data_exploration", "02_preprocessing", "03_augmentation", "05_evaluation", "06_figures",
          "07_quantification", "08_change_one_thing")],
        [str(RUN / "notebooks" / f"04_training_fold_{fold}.ipynb") for fold in FOLDS],


rule prepare:
    input: PROFILE, SCANS, modules(*DATA)
    output: touch(str(RUN / "prepared.done"))
    params: stamps=STAMPS
    shell: f"{COVIDLIB} prepare {CHOSEN}"


rule data_exploration:
    input: rules.prepare.output, PROFILE, notebook("01_data_exploration"), modules(*DATA, "figures"), VIEWER
    output: str(RUN / "notebooks" / "01_data_exploration.ipynb")
    shell: f"{COVIDLIB} notebook 01_data_exploration {CHOSEN}"


rule preprocessing:
    input: rules.prepare.output, PROFILE, notebook("02_preprocessing"), modules(*DATA, "metrics", "figures")
    output: str(RUN / "notebooks" / "02_preprocessing.ipynb")
    shell: f"{COVIDLIB} notebook 02_preprocessing {CHOSEN}"


rule augmentation:
    input: rules.prepare.output, PROFILE, notebook("03_augmentation"), modules(*DATA, "patches", "augmentation", "figures")
    output: str(RUN / "notebooks" / "03_augmentation.ipynb")
    shell: f"{COVIDLIB} notebook 03_augmentation {CHOSEN}"


if FIRST:  # two rules, for the coarser networks need less memory: more of them train at once

    rule beginning:
        input: rules.prepare.output, PROFILE, modules(*TRAINING)
        output: touch(str(RUN / "beginning" / "fold_{fold}.done"))
        priority: 1  # the longer jobs first, or at the end a core has nothing to do
        threads: training_threads(load_profile(FIRST), **THREADS)
        shell: f"{KEPT} TF_NUM_INTRAOP_THREADS={{threads}} {COVIDLIB} begin {CHOSEN} --fold {{wildcards.fold}}"


rule training:
    input:
        rules.prepare.output, PROFILE, notebook("04_training"), modules(*TRAINING, "metrics", "figures"),
        [str(RUN / "beginning" / "fold_{fold}.done")] if FIRST else [],
    output: str(RUN / "notebooks" / "04_training_fold_{fold}.ipynb")
    threads: training_threads(settings, **THREADS)
    shell: f"{KEPT} TF_NUM_INTRAOP_THREADS={{threads}} {COVIDLIB} notebook 04_training {CHOSEN} --fold {{wildcards.fold}}"


rule evaluation:
    input:
        [str(RUN / "notebooks" / f"04_training_fold_{fold}.ipynb") for fold in FOLDS],
        PROFILE, notebook("05_evaluation"), modules(*TRAINING, "metrics", "figures"), VIEWER,
    output: str(RUN / "notebooks" / "05_evaluation.ipynb")
    shell: f"{COVIDLIB} notebook 05_evaluation {CHOSEN} {ONLY}"


rule figures:
    input: rules.evaluation.output, PROFILE, notebook("06_figures"), modules(*TRAINING, "metrics", "figures")
    output: str(RUN / "notebooks" / "06_figures.ipynb")
    shell: f"{COVIDLIB} notebook 06_figures {CHOSEN} {ONLY}"


rule quantification:
    input:
        rules.evaluation.output, PROFILE, notebook("07_quantification"),
        modules(*TRAINING, "scan", "quantification", "predict", "figures", "report"), VIEWER,
        [str(ROOT / "results" / "surrogate-gpu" / name) for name in ("quantities.csv", "manifest.json")],
    output: str(RUN / "notebooks" / "07_quantification.ipynb")
    shell: f"{COVIDLIB} notebook 07_quantification {CHOSEN} {ONLY}"


rule change_one_thing:
    input: rules.prepare.output, PROFILE, [notebook(name) for name in ("08_change_one_thing", "04_training")],
           modules(*TRAINING, "metrics", "figures")
    output: str(RUN / "notebooks" / "08_change_one_thing.ipynb")
    threads: workflow.cores
    shell: f"{COVIDLIB} notebook 08_change_one_thing {CHOSEN}"


rule book:
    input:
        rules.all.input,
        [str(path) for path in sorted((ROOT / "book").rglob("*")) if path.is_file()],
        [str(path) for path in sorted((ROOT / "results").rglob("*")) if path.is_file()],
        [str(path) for path in (ROOT / "bench").glob("results.json")], str(ROOT / "bench" / "measured.py"),
        [str(ROOT / name) for name in ("_config.yml", "_toc.yml", "profiles/paper.yaml")], modules("book", "report"),
    output: str(ROOT / "_build" / "html" / "index.html")
    shell: f"{COVIDLIB} book {CHOSEN}"
