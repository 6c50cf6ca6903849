from slimsweep.records.portable import portable


def test_folders_of_this_machine_are_cut_from_anywhere():
    given = {"path": "/home/me/my models/tiny", "texts": [{"path": "~/mine.txt"}], "why": "no /data/x/y.json: missing"}
    assert portable(given) == {"path": "tiny", "texts": [{"path": "mine.txt"}], "why": "no y.json: missing"}


def test_what_is_no_path_stays():
    for text in ("org/name", "wikitext2:test:join=\\n\\n:ctx=512", "tokens/s", "and / or", "https://a.b/c", "", "/"):
        assert portable(text) == ("" if text == "/" else text)
