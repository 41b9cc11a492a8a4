"""Prompts from text, CSV and Parquet files."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from latentcast.errors import ParameterError
from latentcast.study.recording.prompts import read_prompts


def test_text(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(
        "\ufeff  a red sphere \r\n\r\n \t\nein grüner Würfel, «quer»\na red sphere\nlast".encode()
    )
    assert read_prompts(file) == ("a red sphere", "ein grüner Würfel, «quer»", "last")
    assert read_prompts(str(file), count=2) == ("a red sphere", "ein grüner Würfel, «quer»")


def test_csv(tmp_path: Path) -> None:
    file = tmp_path / "Prompts.CSV"
    file.write_text(
        'id,prompt\n1,"a red, round\nsphere"\n2,\n3,NA\n4,"say ""cube"""\n5,NA\n', encoding="utf-8"
    )
    assert read_prompts(file) == ("a red, round\nsphere", "NA", 'say "cube"')


def diffusion_db(path: Path) -> Path:
    """A table with the columns of DiffusionDB's metadata that matter here, and one that does not."""
    rows = [
        ("a castle", 0.1, 0.2),
        ("blurred", 2.0, 0.1),
        ("unsafe picture", 0.5, 0.1),
        ("unsafe words", 0.1, 0.93),
        ("no score", None, 0.1),
        ("not a number", 0.1, float("nan")),
        ("a castle", 0.1, 0.2),
        (None, 0.1, 0.1),
        ("  ", 0.1, 0.1),
        ("a lake", 0.49, 0.49),
    ]
    prompts, image, words = zip(*rows, strict=True)
    pq.write_table(
        pa.table(
            {
                "image_name": [f"{number}.png" for number in range(len(rows))],
                "prompt": pa.array(prompts, pa.string()),
                "image_nsfw": pa.array(image, pa.float32()),
                "prompt_nsfw": pa.array(words, pa.float32()),
            }
        ),
        path,
    )
    return path


def test_diffusion_db(tmp_path: Path) -> None:
    file = diffusion_db(tmp_path / "metadata.parquet")
    assert read_prompts(file) == ("a castle", "a lake")
    assert read_prompts(file, keep_nsfw=True)[:3] == ("a castle", "blurred", "unsafe picture")
    assert len(read_prompts(file, keep_nsfw=True)) == 7


def test_csv_has_the_same_filter(tmp_path: Path) -> None:
    file = tmp_path / "metadata.csv"
    file.write_text("prompt,image_nsfw\na castle,0.1\nblurred,2.0\nno score,\na lake,0\n")
    assert read_prompts(file) == ("a castle", "a lake")
    assert read_prompts(file, keep_nsfw=True) == ("a castle", "blurred", "no score", "a lake")


def test_a_table_without_scores_is_taken_whole(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": pa.array(["a", "b"], pa.large_string())}), tmp_path / "own.parquet")
    assert read_prompts(tmp_path / "own.parquet") == ("a", "b")


def test_a_long_table_is_read_only_as_far_as_needed(tmp_path: Path) -> None:
    prompts = [f"picture {number}" for number in range(20_000)]
    pq.write_table(pa.table({"prompt": prompts}), tmp_path / "long.parquet", row_group_size=5000)
    assert read_prompts(tmp_path / "long.parquet", count=6000) == tuple(prompts[:6000])
    # The end of the file is never looked at: its pages may be damaged.
    data = bytearray((tmp_path / "long.parquet").read_bytes())
    first = pq.ParquetFile(tmp_path / "long.parquet").metadata.row_group(2).column(0)
    data[first.dictionary_page_offset or first.data_page_offset] ^= 0xFF
    (tmp_path / "damaged.parquet").write_bytes(data)
    assert len(read_prompts(tmp_path / "damaged.parquet", count=100)) == 100
    with pytest.raises(ParameterError, match=r"cannot read the prompts in .*damaged\.parquet"):
        read_prompts(tmp_path / "damaged.parquet")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"a\.txt holds no prompt; write one per line"),
        ("a.txt", b" \n\n", "holds no prompt"),
        ("a.txt", b"red\nr\xf6t\n", "is not UTF-8 text"),
        ("a.csv", b"", "cannot read the prompts in"),
        ("a.csv", b"prompt\n", "holds no prompt"),
        (
            "a.csv",
            b"text,seed\nred,1\n",
            "has no columns named 'prompt'; it needs one. Its columns: text, seed",
        ),
        ("a.csv", b"prompt,prompt\nred,1\n", "has 2 columns named 'prompt'"),
        ("a.csv", b"prompt,seed\nred,1\nblue\n", "cannot read the prompts in .*Expected 2 columns, got 1"),
        ("a.csv", b"prompt\nr\xf6t\n", "cannot read the prompts in .*UTF8"),
        ("a.csv", b"prompt,image_nsfw\nred,high\n", "cannot read the prompts in .*invalid value 'high'"),
        ("a.parquet", b"", "cannot read the prompts in"),
        ("a.parquet", b"PAR1 but not really PAR1", "cannot read the prompts in"),
        ("a.json", b"[]", "give 'held-out', or a file whose name ends in .txt, .csv, .parquet"),
        ("prompts", b"red", "cannot read prompts from"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ParameterError, match=message):
        read_prompts(tmp_path / name)


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.parquet"])
def test_missing_files_and_folders(tmp_path: Path, name: str) -> None:
    with pytest.raises(ParameterError, match="No such file"):
        read_prompts(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(ParameterError, match="cannot read the prompts in"):
        read_prompts(tmp_path / name)
    with pytest.raises(ParameterError, match="cannot read the prompts in"):
        read_prompts(f"~nobody-at-all/{name}")


def test_bad_columns(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": [1, 2]}), file)
    with pytest.raises(ParameterError, match=r"column 'prompt' of .* is of type int64; it must be string"):
        read_prompts(file)
    pq.write_table(pa.table({"prompt": ["a"], "prompt_nsfw": ["low"]}), file)
    with pytest.raises(ParameterError, match=r"column 'prompt_nsfw' .* it must be floating-point"):
        read_prompts(file)
    broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"r\xf6t"], pa.binary()).buffers())
    pq.write_table(pa.table({"prompt": broken}), file)
    with pytest.raises(ParameterError, match="is not UTF-8 text"):
        read_prompts(file)


def test_count(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("red\nblue\n")
    with pytest.raises(ParameterError, match="the number of prompts is 0"):
        read_prompts(tmp_path / "a.txt", count=0)
    with pytest.raises(ParameterError, match="holds 2 different prompts, not 3; ask for fewer"):
        read_prompts(tmp_path / "a.txt", count=3)


def test_held_out() -> None:
    assert len(read_prompts("held-out")) == 500
    assert read_prompts("held-out", count=7) == read_prompts("held-out")[:7]
