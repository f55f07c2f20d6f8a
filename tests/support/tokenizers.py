"""Tokenizers of the kinds that users bring: those that give a text back, and those that lose some of it."""

import pathlib

from tests.support.data import texts_of

LOSSLESS = ("sentencepiece", "byte_level")
LOSSY = {
    "words": "unknown words are one token",
    "lower_case": "case is lost",
    "nfkc": "characters are replaced by others",
    "wordpiece": "case, accents and spaces are lost",
    "metaspace": "its file has no decoder",
    "sentencepiece_plain": "characters outside of its alphabet are unknown",
}


def make_tokenizer(kind: str, folder: pathlib.Path) -> str:
    """Write a tokenizer of a kind that users bring, trained on a.jsonl of a folder, and return its path."""
    import sentencepiece
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    texts = texts_of(folder / "a.jsonl")
    path = folder / f"{kind}.json"
    if kind.startswith("sentencepiece"):
        path = folder / f"{kind}.model"
        whole = kind == "sentencepiece"
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=(writer := path.open("wb")),
            vocab_size=400,
            byte_fallback=whole,
            character_coverage=1.0 if whole else 0.98,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            minloglevel=2,
            num_threads=1,
        )
        writer.close()
    elif kind == "wordpiece":  # drops case and spaces, marks the unknown
        core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        core.normalizer = normalizers.BertNormalizer(lowercase=True)
        core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        core.train_from_iterator(
            texts[:100],
            trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False),
        )
        core.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
        core.enable_truncation(16)
        core.save(str(path))
    elif kind == "words":
        core = Tokenizer(models.WordLevel({"[UNK]": 0, "and": 1, "of": 2}, unk_token="[UNK]"))
        core.pre_tokenizer = pre_tokenizers.Whitespace()
        core.save(str(path))
    elif kind in ("byte_level", "lower_case", "nfkc"):
        core = Tokenizer(models.BPE())
        if kind != "byte_level":
            core.normalizer = normalizers.Lowercase() if kind == "lower_case" else normalizers.NFKC()
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        core.train_from_iterator(
            texts[:100], trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
        )
        core.save(str(path))
    elif kind == "metaspace":  # no token of its own for ends
        core = Tokenizer(models.Unigram())
        core.pre_tokenizer = pre_tokenizers.Metaspace()
        core.train_from_iterator(
            texts,
            trainers.UnigramTrainer(vocab_size=300, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False),
        )
        core.save(str(path))
    return str(path)
