"""Small trained BPE tokenizers of the kinds that GGUF files hold."""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from slimsweep.export.llama_cpp.vocabulary import RULES

TEXT = [
    "The quick brown fox jumps over the lazy dog; it's 1,234 years old, and they don't care!",
    "def walk(model):  return [block for block in model.blocks]  # naïve café",
    "Once upon a time there was a little girl who liked to play with numbers: 2026, 3.14, 10000.",
    "It isn't the dog's fault that we'll never know what they're thinking, I'M SURE.\n\n\tNew lines too.",
]
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_level(name: str, size: int = 400, **settings) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with the rule for words that llama.cpp has under a name."""
    rule, ignores_merges = next((rule, ignores) for rule, (known, ignores) in RULES.items() if known == name)
    steps = []
    for step in rule:
        if step == "digits":
            steps.append(pre_tokenizers.Digits(individual_digits=True))
        elif step != "words of GPT-2":
            steps.append(pre_tokenizers.Split(Regex(step), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex="words of GPT-2" in rule))
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignores_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    ends = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends, **settings)


def sentence_piece(prefix: bool, size: int = 400, **settings) -> PreTrainedTokenizerFast:
    """A tokenizer like Llama 2's (a space before the text) or like Gemma's (none), with every merge of its pieces."""
    replace = normalizers.Replace(" ", "▁")
    start = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prefix else replace
    trained = Tokenizer(models.BPE())
    trained.normalizer = start
    special = ["<unk>", "<s>", "</s>"]
    trained.train_from_iterator([line.replace(" ", "▁") for line in TEXT], trainers.BpeTrainer(vocab_size=size - 259))
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *trained.get_vocab_size() * [""]]
    learned = sorted(trained.get_vocab().items(), key=lambda entry: entry[1])
    vocabulary = {piece: place for place, piece in enumerate(pieces[:259] + [piece for piece, _ in learned])}
    merges = [
        (piece[:at], piece[at:])
        for piece, _ in learned
        for at in range(1, len(piece))
        if piece[:at] in vocabulary and piece[at:] in vocabulary
    ]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = start
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *[decoders.Strip(" ", 1, 0)] * prefix]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, **settings)
