"""A search is read exactly, refused early, and its records carry it over a crash; no Ray."""

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import search as benchmark
from cluster.search.picture import parallel_coordinates
from cluster.search.report import ranked, write_search_report
from cluster.search.search import SearchDir, keep_best
from cluster.search.searcher import OBJECTIVE, STEP, RecordedSearcher, make_asha, own_values
from cluster.search.trial import held_out, sign_of, trial_config, trial_resources
from cluster.search.trials import Trial, TrialBook, best_trial
from configs.checks.search import check_search, starting_points
from configs.errors import ConfigError
from configs.load import load_config, to_yaml
from configs.search import PLAN, Domain, SearchPlan, load_plan, with_place

TEXT, IMAGE = "policies.text.learner.learning_rate", "policies.image.learner.learning_rate"


def plan_of(*overrides: str) -> SearchPlan:
    return load_plan("demo", ["eval.every=10", *overrides])


def message(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        check_search(plan_of(*overrides))
    text = str(caught.value)
    assert "\n" not in text
    return text


def started(plan: SearchPlan, folder: Path) -> tuple[RecordedSearcher, TrialBook, list[Trial]]:
    book, ended = TrialBook(folder), []
    own = own_values(plan, plan.config())
    return RecordedSearcher(plan, book, own=own, sign=1.0, on_change=ended.append), book, ended


def drive(searcher: RecordedSearcher, book: TrialBook, count: int) -> None:
    """Let trials finish at once; the best learning rate is 1e-4."""
    for index in range(count):
        number = searcher.suggest(f"t{index}")["number"]
        value = -abs(math.log10(book.read(number).values[TEXT]) + 4)
        book.measured(number, 100, value)
        book.end(number, "finished")
        searcher.on_trial_complete(f"t{index}", {STEP: 100, OBJECTIVE: value})


# ------------------------------------------------------------------------------- reading


def test_a_run_does_not_see_the_section(tmp_path):
    assert load_config("demo").name == "demo"
    assert "search" not in to_yaml(load_config("demo"))


def test_the_demo_has_a_search():
    plan = plan_of()
    check_search(plan)
    assert plan.space[TEXT] == Domain(kind="log_uniform", values=(1e-5, 1e-3))
    assert plan.config({TEXT: 3.7e-5}).policies["text"].learner.learning_rate == 3.7e-5


def test_overrides_reach_run_and_search():
    plan = plan_of(
        "num_steps=7",
        "search.num_trials=3",
        f"search.space.{TEXT}={{grid: [1e-5, 1e-4]}}",
        "search.metric=psnr",
    )
    assert plan.config().num_steps == 7
    assert plan.settings.metric == "psnr"
    assert plan.space[TEXT] == Domain(kind="grid", values=(1e-5, 1e-4))
    assert plan.num_trials == 4, "whole grids"


def test_nothing_but_grids_is_walked_once():
    plan = plan_of(
        f"search.space.{TEXT}={{grid: [1e-5, 1e-4]}}", f"search.space.{IMAGE}={{grid: [1e-6, 1e-5, 1e-4]}}"
    )
    assert plan.num_trials == 6
    assert len({tuple(row.items()) for row in plan.grid}) == 6


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan = with_place(plan_of("search.num_trials=5"), tmp_path, "x")
    (tmp_path / PLAN).write_text(plan.to_yaml())
    again = load_plan(str(tmp_path), ["search.num_trials=9"])
    assert again.config() == plan.config()
    assert again.space == plan.space
    assert again.settings.num_trials == 9
    with pytest.raises(ConfigError, match=r"num_steps: a search goes on as it began"):
        load_plan(str(tmp_path), ["num_steps=3"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "search.space.policies.text.lerning_rate={uniform: [0, 1]}",
            "did you mean policies.text.learner.learning_rate",
        ),
        ("search.space.policies.txt.learner.learning_rate={uniform: [0.1, 1]}", "did you mean policies.text"),
        (
            f"search.space.{TEXT}={{uniform: [0.1, 2]}}",
            "policies.text.learner.learning_rate: want above 0 and at most 1, got 2",
        ),
        (f"search.space.{TEXT}={{log_unifrom: [0.1, 1]}}", "did you mean log_uniform"),
        (f"search.space.{TEXT}={{uniform: [0.1]}}", "want two numbers"),
        (f"search.space.{TEXT}={{log_uniform: [0, 1]}}", "a low end above 0"),
        (f"search.space.{TEXT}=0.1", "want one of choice, grid"),
        ("search.space.group_size={int: [2, 4.5]}", "int wants whole numbers"),
        ("search.space.group_size={choice: []}", "at least one value"),
        ("search.space.group_size={choice: [1, 8]}", "group_size: want at least 2, got 1"),
        ("search.space.num_steps={choice: [10, 20]}", "could not be compared"),
        ("search.space.data.degradation={choice: [mild, light]}", "could not be compared"),
        ("search.space.output_dir={choice: [a, b]}", "is for all trials"),
        ("search.space.rewards.format.weight={uniform: [0.1, 1]}", "name a reward or a metric"),
        ("search.space.coldstart.text_steps={int: [10, 20]}", "want choice or grid"),
        ("search.metric=pnsr", "no held-out metric 'pnsr'; there are total, format"),
        ("search.num_trails=3", "did you mean search.num_trials"),
        ("search.num_trials=0", "search.num_trials: want at least 1"),
        ("search.grace_steps=1000", "want at most num_steps"),
        ("search=3", "want search.key=value"),
    ],
)
def test_a_mistake_costs_one_line(override, said):
    assert said in message(override)


def test_grace_needs_evaluations():
    assert "set eval.every above 0" in message("search.grace_steps=10", "eval.every=0")


def test_shared_rewards_must_be_the_same_for_all():
    said = message("search.share_rewards=true", "search.space.rewards.format.cache={choice: [true, false]}")
    assert "search.share_rewards: trials with another rewards.format.cache" in said


def test_a_key_of_the_cold_start_makes_one_for_each_value():
    plan = plan_of("search.space.coldstart.text_steps={choice: [10, 20]}")
    check_search(plan)
    assert [config.coldstart.text_steps for config in starting_points(plan)] == [10, 20]
    assert len(starting_points(plan_of())) == 1


def test_choices_may_be_mappings_and_methods(tmp_path):
    plan = plan_of("search.space.policies.text.loss.surrogate={choice: [cispo, {kind: ppo, clip_low: 0.1}]}")
    check_search(plan)
    searcher, book, _ = started(plan, tmp_path)
    for index in range(6):
        searcher.suggest(str(index))
    kinds = {plan.config(trial.values).policies["text"].loss.surrogate.kind for trial in book.all()}
    assert kinds == {"cispo", "ppo"}


# ------------------------------------------------------------------------------- drawing


def test_the_files_own_values_are_the_first_trial(tmp_path):
    plan = plan_of()
    searcher, book, _ = started(plan, tmp_path)
    searcher.suggest("a")
    assert book.read(0).values == {TEXT: 1.5e-4, IMAGE: 4e-5}


def test_own_values_outside_the_space_are_not_tried():
    assert own_values(plan_of(f"{TEXT}=1e-2"), plan_of(f"{TEXT}=1e-2").config()) == {}


def test_every_grid_point_comes_and_the_rest_is_drawn(tmp_path):
    plan = plan_of("search.space.group_size={grid: [4, 8]}", "search.num_trials=6")
    searcher, book, _ = started(plan, tmp_path)
    for index in range(plan.num_trials):
        searcher.suggest(str(index))
    assert [trial.values["group_size"] for trial in book.all()] == [4, 8, 4, 8, 4, 8]
    assert len({trial.values[TEXT] for trial in book.all()}) == 6
    assert all(value in plan.space[key] for trial in book.all() for key, value in trial.values.items())


def test_the_searcher_learns(tmp_path):
    """A plain hump: later trials lie nearer to its top than random ones, which are 2.1 decades from it on average."""
    plan = plan_of(f"search.space.{TEXT}={{log_uniform: [1e-9, 1e-1]}}", "search.num_trials=40")
    searcher, book, ended = started(plan, tmp_path)
    drive(searcher, book, 40)
    gaps = [-trial.last for trial in book.all()]
    assert sum(gaps[-15:]) / 15 < 1.5
    assert len(ended) == 40


def test_a_search_that_was_killed_loses_nothing(tmp_path):
    plan = plan_of("search.num_trials=8")
    searcher, book, _ = started(plan, tmp_path)
    drive(searcher, book, 3)
    searcher.suggest("under way")
    before = book.all()
    again, book, ended = started(plan, tmp_path)
    assert again.num_left == 5
    assert again.suggest("x") == {"number": 3}, "what was under way comes first"
    assert again.suggest("y") == {"number": 4}
    assert book.all()[:4] == before
    assert book.read(4).values not in [trial.values for trial in before], "nothing is drawn twice"
    again.on_trial_complete("x", None, error=True)
    assert book.read(3).state == "failed"
    assert book.read(3).error.startswith("its process ended without a word")
    assert [trial.number for trial in ended] == [3]


def test_asha_stops_the_worse_and_remembers():
    from types import SimpleNamespace

    plan = plan_of("num_steps=90")
    known = [
        Trial(number=n, values={}, state="finished", metric={10: 1.0 + n / 10, 90: 2.0}) for n in range(3)
    ]
    scheduler = make_asha(plan, plan.config(), known, sign=1.0)
    for value, decision in ((0.5, "STOP"), (2.0, "CONTINUE"), (math.nan, "CONTINUE")):
        trial = SimpleNamespace(trial_id=f"new {value}")
        scheduler.on_trial_add(None, trial)
        assert scheduler.on_trial_result(None, trial, {STEP: 10, OBJECTIVE: value}) == decision
    assert make_asha(plan_of("eval.every=0"), plan_of("eval.every=0").config(), [], sign=1.0) is None


# ------------------------------------------------------------------------------- trials


def test_a_failed_trial_cannot_win_and_a_stopped_one_only_if_none_finished():
    trials = [
        Trial(number=0, values={}, state="failed", metric={10: 9.0}, error="x"),
        Trial(number=1, values={}, state="stopped", metric={10: 8.0}),
        Trial(number=2, values={}, state="finished", metric={10: 9.0, 20: 2.0}),
        Trial(number=3, values={}, state="finished", metric={20: 3.0}),
        Trial(number=4, values={}, state="finished", metric={20: None}),
    ]
    assert best_trial(trials, sign=1.0).number == 3
    assert best_trial(trials, sign=-1.0).number == 2
    assert best_trial(trials[:2], sign=1.0).number == 1
    assert best_trial(trials[:1], sign=1.0) is None
    assert (sign_of("psnr"), sign_of("gmsd")) == (1.0, -1.0)


def test_how_a_trial_ended_is_said_once(tmp_path):
    book = TrialBook(tmp_path)
    book.write(Trial(number=7, values={TEXT: 1e-5}))
    book.measured(7, 10, math.nan)
    book.end(7, "failed", "no learner")
    assert book.end(7, "stopped").state == "failed"
    assert book.read(7) == Trial(
        number=7, values={TEXT: 1e-5}, state="failed", metric={10: None}, error="no learner"
    )


def test_a_trial_is_a_run_of_its_own_with_the_shared_start(tmp_path):
    plan = with_place(plan_of(), tmp_path, "s")
    config = trial_config(plan, SearchDir(tmp_path / "s").book, Trial(number=2, values={TEXT: 2e-5}))
    assert (config.output_dir, config.name) == (str(tmp_path / "s" / "trials"), "trial-002")
    assert Path(config.coldstart.directory).parent == tmp_path
    assert config.policies["text"].learner.learning_rate == 2e-5


def test_a_trial_reserves_what_it_spawns():
    config = load_config("demo", ["policies.image.num_gpus=0.5", "rewards.format.num_workers=3"])
    resources = trial_resources(config, share_rewards=False)
    # the trial; two processes a policy, the two that share a GPU in one; three and four rewards; the guides
    assert len(resources.bundles) == 1 + 3 + 7 + 1
    assert resources.required_resources["GPU"] == 1.0
    assert len(trial_resources(config, share_rewards=True).bundles) == 1 + 3 + 1


def test_a_metric_that_was_not_to_be_had_is_not_a_zero():
    assert held_out({"rows": {"now": {"psnr": {"mean": 2.0}}}}, "psnr") == 2.0
    assert held_out({"rows": {"now": {}}}, "psnr") is None


# ------------------------------------------------------------------------------- what comes out


def some_trials() -> list[Trial]:
    states = ["finished", "stopped", "failed", "finished"]
    return [
        Trial(
            number=n,
            values={TEXT: 10.0 ** (-5 + n / 2), IMAGE: 10.0 ** (-5 + n / 3)},
            state=state,
            metric={} if state == "failed" else {10: 1.0 + n / 7},
            error="gradient <is> not finite" if state == "failed" else "",
        )
        for n, state in enumerate(states)
    ]


def test_the_page_needs_no_network_and_names_every_trial(tmp_path):
    trials, plan = some_trials(), plan_of()
    page = write_search_report(plan, trials, trials[3], tmp_path).read_text()
    assert "http" not in page
    assert all(trial.name in page for trial in trials)
    assert "gradient &lt;is&gt; not finite" in page
    said = json.loads((tmp_path / "search.json").read_text())
    assert said["best"] == "trial-003"
    assert [trial.number for trial in ranked(plan, trials)] == [3, 0, 1, 2]
    picture = ElementTree.parse(tmp_path / "parallel.svg").getroot()
    lines = picture.findall(".//{*}path[{*}title]")
    titles = [line[0].text.split()[0].rstrip(":") for line in lines]
    assert titles == ["trial-002", "trial-001", "trial-000", "trial-003"]  # the best lies on top
    assert [line.get("class") for line in lines] == ["trial", "trial", "trial", "best"]
    assert [line.get("stroke-dasharray") for line in lines] == ["2 3", "7 4", "none", "none"]
    axes = len(plan.space) + 2
    assert [line.get("d").count("L") for line in lines] == [axes - 2, axes - 1, axes - 1, axes - 1]


def test_a_picture_of_one_trial_and_of_equal_results():
    plan = plan_of()
    trials = some_trials()[:1]
    svg = parallel_coordinates(plan, trials, trials[0])
    assert svg.count("<title>") == 1
    assert "nan" not in svg


def test_the_winner_has_its_newest_checkpoint_alone(tmp_path):
    folder = SearchDir(tmp_path)
    trial = folder.book.write(Trial(number=1, values={}))
    source = folder.book.path(1)
    for step in (1, 2):
        path = source / "checkpoints" / f"step_{step:06d}"
        (path / "text").mkdir(parents=True)
        (path / "state.json").write_text(json.dumps({"step": step, "position": 0, "versions": {}}))
    (source / "resolved.yaml").write_text("name: x\n")
    keep_best(folder, trial)
    (tmp_path / "best" / "trained since").touch()
    keep_best(folder, trial)
    assert (tmp_path / "best" / "trained since").exists()
    assert [path.name for path in (tmp_path / "best" / "checkpoints").iterdir()] == ["step_000002"]
    assert (tmp_path / "best" / "resolved.yaml").exists()
    keep_best(folder, folder.book.write(Trial(number=2, values={})))
    assert (tmp_path / "best-before-trial-001" / "trained since").exists()
    assert json.loads((tmp_path / "best" / "trial.json").read_text())["number"] == 2


def test_the_benchmark_asks_for_what_can_be_searched():
    bad = benchmark.wrong_rates("demo", [])
    assert bad == {TEXT: pytest.approx(1.5e-5), IMAGE: pytest.approx(4e-6)}
    plan = load_plan("demo", ["eval.every=10", *benchmark.settings(bad), *benchmark.space(bad)])
    base = check_search(plan)
    assert own_values(plan, base) == pytest.approx(bad)
    good = load_config("demo").policies
    assert all(good[key.split(".")[1]].learner.learning_rate in plan.space[key] for key in (TEXT, IMAGE))


def test_recovery_is_a_ratio_of_paired_gains():
    rng = np.random.default_rng(1)
    good = rng.normal(0.2, 0.1, 500)
    ratio, low, high = benchmark.recovery(good * 0.95, good)
    assert (ratio, low, high) == pytest.approx((0.95, 0.95, 0.95))
