"""The charts' library, which is kept in the user's cache."""

import vl_convert

from plateflow.report.page import library


def test_the_library_is_bundled_once_and_what_is_damaged_or_out_of_reach_is_made_again(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(vl_convert, "javascript_bundle", lambda: made.append("") or "run('</script>é')")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert library() == library() == "run('<\\/script>é')"
    assert len(made) == 1
    (kept,) = tmp_path.glob("plateflow/vega-*")
    kept.write_bytes(kept.read_bytes()[:-1])
    assert library() == library() == "run('<\\/script>é')"
    assert len(made) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert library() == "run('<\\/script>é')"
    assert len(made) == 3


def test_without_a_home_nothing_is_kept_in_the_project(tmp_path, monkeypatch):
    monkeypatch.setattr(vl_convert, "javascript_bundle", lambda: "run()")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as it is for a user whom the machine doesn't know
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.chdir(tmp_path)
    assert library() == "run()"
    assert list(tmp_path.iterdir()) == []
