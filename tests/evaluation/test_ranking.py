"""Average ranks: ties, directions, layouts, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pathotune_pipeline.cli import main
from pathotune_pipeline.errors import ManifestError, UsageError
from pathotune_pipeline.evaluation.ranking import Scores, chosen, mid_ranks, rank_models, read_scores

# Of eva's leaderboard for pathology (kaiko-ai/eva, Apache-2.0), as its file has it: columns TASK and TASK/test.
EVA = """\
model,bach,breakhis,crc,mhist,patch_camelyon,patch_camelyon/test,camelyon16_small,camelyon16_small/test,consep
paige_virchow2,0.883,0.821,0.967,0.861,0.933,0.938,0.974,0.861,0.64
mahmood_uni2_h,0.915,0.859,0.965,0.824,0.944,0.95,0.973,0.849,0.63
kaiko_midnight_12k,0.904,0.819,0.966,0.804,0.929,0.929,0.918,0.849,0.623
bioptimus_h_optimus_0,0.759,0.801,0.955,0.843,0.932,0.943,0.929,0.827,0.644
kaiko_vitb8,0.866,0.832,0.959,0.829,0.912,0.915,0.866,0.814,0.646
prov_gigapath,0.759,0.827,0.951,0.829,0.935,0.945,0.881,0.815,0.626
mahmood_uni,0.785,0.785,0.944,0.843,0.936,0.937,0.957,0.833,0.628
"""
# By hand: bach, breakhis, crc, mhist, patch_camelyon/test, camelyon16_small/test, consep.
RANKS = {
    "paige_virchow2": [3, 4, 1, 1, 4, 1, 3],
    "mahmood_uni2_h": [1, 1, 3, 6, 1, 2.5, 4],
    "kaiko_midnight_12k": [2, 5, 2, 7, 6, 2.5, 7],
    "bioptimus_h_optimus_0": [6.5, 6, 5, 2.5, 3, 5, 2],
    "kaiko_vitb8": [4, 2, 4, 4.5, 7, 7, 1],
    "prov_gigapath": [6.5, 3, 6, 4.5, 2, 6, 6],
    "mahmood_uni": [5, 7, 7, 2.5, 5, 4, 5],
}
LONG = "Model;Task;Score;Better\na;auroc;.9;higher\nb;auroc;.8;higher\na;ece;.3;lower\nb;ece;.1;lower\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_evas_leaderboard_gives_the_stored_table(tmp_path: Path) -> None:
    scores = read_scores([write(tmp_path / "pathology.csv", EVA)])
    assert scores.tasks[4:6] == ("patch_camelyon/test", "camelyon16_small/test")
    assert "camelyon16_small, patch_camelyon the test part counts" in scores.notes[0]
    ranking = rank_models(scores)
    found = dict(zip(ranking.models, ranking.ranks.tolist(), strict=True))
    assert found == RANKS
    means = {name: sum(ranks) / 7 for name, ranks in RANKS.items()}
    assert ranking.models == tuple(sorted(means, key=means.__getitem__))
    assert ranking.mean_ranks.tolist() == pytest.approx(sorted(means.values()))
    firsts = dict(zip(ranking.models, ranking.firsts.tolist(), strict=True))
    assert (firsts["paige_virchow2"], firsts["mahmood_uni2_h"], firsts["mahmood_uni"]) == (3, 3, 0)
    assert (ranking.ranks.sum(axis=0) == 28).all(), "ties share places"


def test_ranks_of_equals_are_the_mean_of_their_places() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 6, 40).astype(float)
    counted = [1 + sum(values < each) + (sum(values == each) - 1) / 2 for each in values]
    assert mid_ranks(values).tolist() == counted
    assert mid_ranks(np.ones(5)).tolist() == [3.0] * 5


def test_less_may_be_better(tmp_path: Path) -> None:
    long = read_scores([write(tmp_path / "long.csv", LONG)])
    assert long.lower == {"ece"}
    assert rank_models(long).ranks.tolist() == [[1, 2], [2, 1]]
    wide = read_scores([write(tmp_path / "wide.csv", "model,auroc,ece\na,.9,.3\nb,.8,.1\n")])
    assert rank_models(wide).ranks.tolist() == [[1, 1], [2, 2]]
    told = chosen(wide, lower=["ece"])
    assert rank_models(told).ranks.tolist() == [[1, 2], [2, 1]]
    assert rank_models(told).firsts.tolist() == [1, 1]
    with pytest.raises(UsageError, match=r"no task 'eces'.*ece"):
        chosen(wide, lower=["eces"])


def test_a_model_without_a_task_is_not_ranked(tmp_path: Path) -> None:
    path = write(tmp_path / "eva.csv", EVA.replace("0.785,0.785,0.944", "0.785,,0.944"))
    scores = read_scores([path])
    with pytest.raises(
        UsageError, match=r"'mahmood_uni' has no score in task 'breakhis' \(1 of 49 scores are absent\)"
    ):
        rank_models(scores)
    assert rank_models(chosen(scores, leave_out=["breakhis"])).ranks.shape == (7, 6)
    assert rank_models(chosen(scores, leave_out=["mahmood_uni"])).ranks.shape == (6, 7)
    assert rank_models(chosen(scores, tasks=["crc", "bach"])).tasks == ("crc", "bach")
    long = write(tmp_path / "long.csv", LONG.replace("b;ece;.1;lower\n", ""))
    with pytest.raises(UsageError, match="'b' has no score in task 'ece'"):
        rank_models(read_scores([long]))
    with pytest.raises(UsageError, match="0 models and 0 tasks"):
        rank_models(Scores((), (), np.zeros((0, 0))))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model,crc\na,good\n", r"line 2, column 'crc': 'good' is no number"),
        ("model,crc\na,.9\na,.8\n", "'a' has two lines"),
        ("model,task,score\na,crc,.9\na,crc,.8\n", "'a' has two scores in task 'crc'"),
        ("model,task,points\na,crc,.9\n", "needs one called score or value or mean"),
        ("model,task,score,better\na,crc,.9,up\n", "give higher or lower"),
        ("model,task,score,better\na,crc,.9,higher\nb,crc,.8,lower\n", "one in all its lines"),
    ],
)
def test_a_table_that_says_nothing_clear_is_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        rank_models(read_scores([write(tmp_path / "t.csv", text)]))
    with pytest.raises(ManifestError, match="Cannot read"):
        read_scores([tmp_path / "none.csv"])


def summary(*rows: tuple[str, str, str, float]) -> str:
    head = "encoder,method,train_domain,fraction,test,in_domain,score,mean\n"
    return head + "".join(
        f"{encoder},{method},,1.0,{test},yes,{score},{mean}\n"
        for encoder, method, test, value in rows
        for score, mean in (("balanced_accuracy", value), ("auroc", 1 - value))
    )


def test_studies_are_tasks(tmp_path: Path) -> None:
    one = [("uni", "linear", "test", 0.9), ("vit", "linear", "test", 0.8)]
    two = [("vit", "linear", "in", 0.7), ("vit", "linear", "out", 0.6), ("uni", "linear", "in", 0.5)]
    bach = write(tmp_path / "bach" / "summary.csv", summary(*one))
    crc = write(tmp_path / "crc" / "summary.csv", summary(*two, ("uni", "linear", "out", 0.6)))
    ranking = rank_models(read_scores([crc, bach]))
    assert ranking.models == ("vit, linear", "uni, linear")
    assert ranking.tasks == ("crc in", "crc out", "bach")
    assert ranking.ranks.tolist() == [[1, 1.5, 2], [2, 1.5, 1]]
    assert rank_models(read_scores([crc, bach], score="auroc")).ranks.tolist() == [[2, 1.5, 1], [1, 1.5, 2]]
    with pytest.raises(UsageError, match=r"no score 'aurok'.*auroc"):
        read_scores([bach], score="aurok")
    knn = write(tmp_path / "mhist" / "summary.csv", summary(*one, ("uni", "k-NN", "test", 0.95)))
    assert rank_models(read_scores([knn])).models == ("uni, k-NN", "uni, linear", "vit, linear")


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path / "eva.csv", EVA))
    assert main(["rank", path, "--leave-out", "consep", "--out", str(tmp_path / "ranks.csv")]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[1].split() == ["paige_virchow2", "2.33", "3", "3", "4", "1", "1", "4", "1"]
    assert told[-1].startswith("note: eva.csv")
    written = (tmp_path / "ranks.csv").read_text().splitlines()
    assert written[0] == "model,mean_rank,firsts,bach,breakhis,crc,mhist,patch_camelyon/test,camelyon16_small/test"
    assert written[2].startswith("mahmood_uni2_h,2.41666")
    assert len(written) == 8
    assert main(["rank", path, "--json", "--lower", "crc", "--out", str(tmp_path / "ranks.json")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "ranks.json").read_text())
    assert printed["tasks"][2] == {"task": "crc", "better": "lower"}
    assert next(each for each in printed["models"] if each["model"] == "mahmood_uni")["ranks"]["crc"] == 1
    assert main(["rank", path, "--out", str(tmp_path / "ranks.xlsx")]) == 2
    assert "ends in .csv or .json" in capsys.readouterr().err
