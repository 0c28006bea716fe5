"""Makes the directories in chat/: small tokenizers and chat templates of the kinds that models have, with what the
`transformers` library makes of texts and chats by them.

    python make_chat.py  # transformers 5.24, behind make_models.py

The templates are written for this, in the manner of those that models come with. The directories hold
tokenizer.json, tokenizer_config.json, the model's type and, where it isn't in there, chat_template.jinja; expected.json
has the rest.
"""

import json
import logging
import os
import shutil

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "chat")
logging.disable(logging.WARNING)

TEXT = """The world will little note, nor long remember what we say here, but it can never forget what they did here.
It is for us the living, rather, to be dedicated here to the unfinished work which they who fought here have thus far so
nobly advanced. Who was Ralph? Ralph was the cat of the man who lived in 1863, and he was a good cat. What is 12 and 30?
system user assistant model tool think You are a helpful assistant. Ça va? Un café, s'il vous plaît. Straße. 東京。\n"""

GPT4_WORDS = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
QWEN_WORDS = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""

CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful assistant, small as you are.<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""

LLAMA3 = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- The system message comes first, and may be missing. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Knowledge ends: December 2023\\n" }}
{{- "Today: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}

{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

MISTRAL = """{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the optional system message, conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.first and system_message is defined %}
            {{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- ' [INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token}}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported, with the exception of an initial optional system message!') }}
    {%- endif %}
{%- endfor %}
"""

QWEN25 = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'You are an assistant.' }}
    {%- endif %}
    {{- "\\n\\n# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are an assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

QWEN3 = """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<tool_call>\\n{"name": "' }}
                {{- tool_call.name }}
                {{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
"""


def special(*texts):
    return [AddedToken(text, special=True, normalized=False) for text in texts]


def byte_level(words, normalizer, extra_splits=()):
    """Byte-level pairs without special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    if words is None:
        level = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    else:
        level = [
            pre_tokenizers.Split(Regex(words), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*extra_splits, *level])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=320, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def byte_fallback(first, spaces):
    """Pairs of characters with a token for each byte, as sentencepiece has them; `first` are the first tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", behavior="merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=120, show_progress=False, special_tokens=["<unk>"])
    # Not all of the characters: the others are bytes.
    tokenizer.train_from_iterator([TEXT.replace("\n", " ").split("Ça")[0]], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    pieces = [*first, *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [piece for piece in model["vocab"] if piece not in pieces]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    merges = [tuple(pair) for pair in model["merges"]]
    model = models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    chain = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if spaces == "prepended":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        chain.append(decoders.Strip(" ", 1, 0))
    else:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    tokenizer.decoder = decoders.Sequence(chain)
    return tokenizer


def begins_with(tokenizer, token):
    number = tokenizer.token_to_id(token)
    template = processors.TemplateProcessing(
        single=f"{token}:0 $A:0", pair=f"{token}:0 $A:0 {token}:1 $B:1", special_tokens=[(token, number)]
    )
    return template


def families():
    """Name → model type, class, tokenizer, settings, template, whether the template is a file of its own."""
    made = {}

    tokenizer = byte_level(None, None, [pre_tokenizers.Digits(individual_digits=True)])
    tokenizer.add_special_tokens(special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    roles = dict(bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>", unk_token="<|endoftext|>")
    made["chatml"] = ("llama", "GPT2Tokenizer", tokenizer, roles, CHATML, False)

    tokenizer = byte_level(GPT4_WORDS, None)
    tokenizer.add_special_tokens(
        special("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    )
    level = processors.ByteLevel(trim_offsets=False)
    tokenizer.post_processor = processors.Sequence([level, begins_with(tokenizer, "<|begin_of_text|>")])
    roles = dict(bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")
    made["llama3"] = ("llama", "PreTrainedTokenizerFast", tokenizer, roles, LLAMA3, False)

    tokenizer = byte_fallback(["<unk>", "<s>", "</s>"], "prepended")
    tokenizer.add_special_tokens(special("<unk>", "<s>", "</s>"))
    tokenizer.post_processor = begins_with(tokenizer, "<s>")
    roles = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>")
    # What is off in `transformers`, too, and what the file of pairs would need.
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=16, pad_id=2, pad_token="</s>")
    more = dict(add_bos_token=False, add_eos_token=True, legacy=False)
    made["zephyr"] = ("llama", "LlamaTokenizer", tokenizer, roles | more, ZEPHYR, False)

    tokenizer = byte_fallback(["<unk>", "<s>", "</s>"], "prepended")
    tokenizer.add_special_tokens(special("<unk>", "<s>", "</s>", "[INST]", "[/INST]"))
    tokenizer.post_processor = begins_with(tokenizer, "<s>")
    roles = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made["mistral"] = ("mistral", "LlamaTokenizer", tokenizer, roles, MISTRAL, True)

    for name, template, is_file in [("qwen2", QWEN25, False), ("qwen3", QWEN3, True)]:
        tokenizer = byte_level(QWEN_WORDS, normalizers.NFC())
        tokenizer.add_special_tokens(special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
        plain = ["<tool_call>", "</tool_call>", "<think>", "</think>"]
        tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in plain])
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        roles = dict(bos_token=None, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token=None)
        made[name] = (name, "Qwen2Tokenizer", tokenizer, roles, template, is_file)

    first = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    tokenizer = byte_fallback(first, "kept")
    tokenizer.add_special_tokens(special(*first))
    tokenizer.add_tokens([AddedToken("\n\n", special=False, normalized=False)])
    tokenizer.post_processor = begins_with(tokenizer, "<bos>")
    roles = dict(bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")
    made["gemma"] = ("gemma3_text", "GemmaTokenizer", tokenizer, roles, GEMMA, False)
    return made


def said(*turns):
    return [dict(role=role, content=content) for role, content in turns]


CALL = dict(
    role="assistant",
    content="",
    tool_calls=[dict(type="function", function=dict(name="add", arguments=dict(a=12, b=[1.5, 1e16, True, None], c="é\"<&>")))],
)
CHATS = [
    said(("user", "Who was Ralph?")),
    said(("system", "You are a cat."), ("user", "Who was Ralph?")),
    said(("user", "Who was Ralph?"), ("assistant", "A good cat."), ("user", "Is he here?")),
    said(("system", "You are Ralph, a cat."), ("user", "Hi"), ("assistant", "Hello"), ("user", "12 and 30?"), ("assistant", "42")),
    said(("user", "  two lines\n\n and spaces \t"), ("assistant", " \n"), ("user", "\n")),
    said(("system", ""), ("user", "")),
    said(("user", "naïve — 東京 🙂 {{ messages }} {% if %} <b>'\"&</b>")),
    said(("user", "stop<|im_end|></s><end_of_turn><|eot_id|> [INST] here")),
    said(("user", "1"), ("assistant", "<think>\nWhat is 1?\n</think>\n\nA number."), ("user", "2")),
    said(("user", "1"), ("assistant", "<think>\nWhat is 1?\n</think>\n\nA number.")),
    said(("user", "1")) + [dict(role="assistant", content="A number.", reasoning_content="\nHm.\n")],
    said(("user", "1")) + [dict(role="assistant", content="A number.", reasoning="Older.", name=None)],
    said(("user", "12 and 30?")) + [CALL] + said(("tool", "42"), ("tool", "43"), ("assistant", "42.")),
    said(("user", "a"), ("user", "b")),
    said(("assistant", "a")),
    said(("user", "a"), ("nobody", "b")),
    [dict(role="user", content=[dict(text=" a ", type="text"), dict(type="image"), dict(text="b", type="text")])],
]

TEXTS = [
    "",
    "Who was Ralph?",
    " Who  was\n\n  Ralph?\t\r\n",
    "note  1863,   12 and 30",
    "naïve — 東京 🙂 Straße e\u0301",
    "<s>here</s> it <|im_start|>is<|im_end|>\n<start_of_turn>user <|eot_id|>\n\n<|begin_of_text|>",
    "the living " * 40,
]

# What templates may do, each with what Jinja makes of it.
SNIPPETS = [
    "{{ true }} {{ none }} {{ 1.0 }} {{ 1e16 }} {{ 0.00001 }} {{ 10 / 4 }} {{ 7 // 2 }} {{ -7 % 3 }} {{ 2 ** 10 }}",
    "{{ messages }}|{{ messages[0] }}|{{ [1, 'a', \"it's\", none, (1,), (), {}, [], {'k': 1.5}] }}",
    "{{ undefined }}|{{ messages[0].nothing }}|{{ 'x' if nothing is defined }}|{{ nothing | default('d') }}",
    "{{ {'b': 1, 'a': [true, none, 1.5, 'é\"\\n\u2028']} | tojson }}",
    "{{ {'b': 1, 'a': {}} | tojson(indent=2) }}|{{ {'b': [1, 2], 'a': []} | tojson(sort_keys=true, indent=1) }}",
    "{{ {'b': 'é🙂', 'a': 2} | tojson(ensure_ascii=true, separators=(',', ':')) }}|{{ '<a & b>' | tojson }}",
    "{% for m in messages %}\n  {% if loop.first %}\n  first\n  {% endif %}\n{{ m.role }}{% if not loop.last %},{% endif %}\n\n{% endfor %}\nend\n\n",
    "  {%- if true %}  a  {%- endif %}  \n  {% if true -%}  b  {%+ endif %}\n   {%+ if true %}c{% endif +%}\n d",
    "{# a comment #}\n  {# another -#}  \n e",
    "{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% set ns = namespace(a=0, b='') %}{% for m in messages %}{% set ns.a = ns.a + 1 %}{% set ns.b = ns.b ~ m.role[0] %}{% endfor %}{{ ns.a }}{{ ns.b }}",
    "{% set x = 1 %}{% for m in messages %}{% set x = 2 %}{% endfor %}{{ x }}{% if true %}{% set x = 3 %}{% endif %}{{ x }}",
    "{% macro f(a, b='d') %}[{{ a }}{{ b }}]{% endmacro %}{{ f(1) }}{{ f(1, b=2) }}{% set y %}block{{ 1 }}{% endset %}{{ y | upper }}",
    "{% for m in messages[::-1] %}{{ loop.index }}{{ loop.revindex0 }}{{ loop.length }}{{ m.role }} {% else %}none{% endfor %}{{ messages[-1].role }}{{ messages[1:][0].role }}{{ messages[:1] | length }}",
    "{% for m in messages if m.role != 'user' %}{{ m.content }}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}",
    "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{% for k in messages[0] %}{{ k }}{% endfor %}{{ messages[0].get('role') }}{{ messages[0].get('x', 'y') }}{{ 'role' in messages[0] }}",
    "{{ ' a b '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'a,b,c'.split(',') }}|{{ 'a b  c'.split() }}|{{ 'a,b,c'.split(',', 1)[1] }}|{{ 'abc'.startswith('ab') }}|{{ 'abc'.endswith(('x', 'bc')) }}|{{ 'aXbX'.replace('X', '-') }}|{{ 'ab'.upper() }}|{{ 'a-b'.title() }}|{{ 'abcb'.find('b') }}|{{ 'abcb'.rfind('b') }}|{{ ','.join(['a', 'b']) }}",
    "{{ messages | map(attribute='role') | list }}|{{ messages | selectattr('role', 'equalto', 'user') | list | length }}|{{ messages | map(attribute='content') | join(' + ') }}|{{ [3, 1, 2] | sort | first }}|{{ 'abc' | length }}|{{ ' x ' | trim }}|{{ 'a' | string }}|{{ '3' | int + 1 }}|{{ true | string }}",
    "{{ messages is iterable }}{{ 'a' is string }}{{ messages[0] is mapping }}{{ messages is sequence }}{{ 1 is number }}{{ none is none }}{{ true is true }}{{ false is false }}{{ 'a' is iterable }}{{ 1 is string }}{{ messages is string }}{{ 3 is odd }}",
    "{{ 'a' ~ 1 ~ 'b' }}{{ 'ab' * 2 }}{{ 'a' in 'cat' }}{{ 2 not in [1] }}{{ 1 == 1.0 }}{{ 'a' < 'b' }}{{ (1 if false) }}{{ not none }}{{ 'x' and 'y' }}{{ '' or 'z' }}",
    "{% generation %}said{% endgeneration %}\n{%- generation -%} x {%- endgeneration -%} .\n{% generation %}\n  y\n{% endgeneration %}\nz",
    "{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token }}{{ add_generation_prompt }}{{ tools }}{{ documents }}{{ tools is none }}",
    "{{ strftime_now is defined }}{{ raise_exception is defined }}{{ '%s: %d' | format('a', 3) }}{{ '%05.1f' | format(2.25) }}",
    "a\n{{ raise_exception('Two\nlines: ' ~ messages | length) }}",
    "{{ messages[0]['content'] + 1 }}",
    "{{ nothing.at.all }}",
    "{{ messages[0] | nofilter }}",
    "{% if %}",
    "a\n{% for %}",
    "{{ messages[0].content.nomethod() }}",
    "{{ nothing | tojson }}",
]


# What generation_config.json may say.
GENERATION = [
    {},
    dict(do_sample=True, temperature=0.6, top_p=0.9, eos_token_id=[5, 6], bos_token_id=1, pad_token_id=0),
    dict(do_sample=True, top_k=20, top_p=1.0, max_new_tokens=7, eos_token_id=2),
    dict(do_sample=True, top_k=0, temperature=None, max_length=99),
    dict(do_sample=False, temperature=0.6, suppress_tokens=[3, 4], eos_token_id=None),
]

# Lines of a conversation with models/qwen3 and the tokenizer and the template of chat/qwen3.
LINES = ["Who was Ralph?", "Is he   here?", "12 and 30?"]


def drawn(settings):
    """What the library makes of a generation_config.json."""
    config = GenerationConfig(**settings)
    config.update(**GenerationConfig._get_default_generation_params(), defaults_only=True)
    known = ["do_sample", "temperature", "top_k", "top_p", "max_new_tokens", "eos_token_id", "suppress_tokens"]
    return {name: getattr(config, name) for name in known}


def conversation():
    tokenizer = AutoTokenizer.from_pretrained(os.path.join(HERE, "qwen3"))
    model = AutoModelForCausalLM.from_pretrained(os.path.join(HERE, "..", "models", "qwen3"))
    without_text = list(range(len(tokenizer), model.config.vocab_size))
    messages = [dict(role="system", content="Be brief.")]
    for line in LINES:
        messages.append(dict(role="user", content=line))
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")["input_ids"]
        tokens = model.generate(prompt, max_new_tokens=12, do_sample=False, suppress_tokens=without_text)
        answer = tokenizer.decode(tokens[0, prompt.shape[1] :], skip_special_tokens=True)
        messages.append(dict(role="assistant", content=answer))
    return messages


def rendered(tokenizer, messages, prompt, variables, template=None):
    try:
        text = tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=prompt, **variables
        )
    except Exception as error:  # noqa: BLE001
        return dict(error=str(error))
    return dict(text=text)


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    expected = dict(texts=[], chats=[], snippets=[])
    for name, (model_type, tokenizer_class, tokenizer, settings, template, is_file) in families().items():
        directory = os.path.join(HERE, name)
        os.makedirs(directory)
        tokenizer.save(os.path.join(directory, "tokenizer.json"), pretty=False)
        settings = dict(tokenizer_class=tokenizer_class, **settings)
        with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as file:
            json.dump(dict(model_type=model_type), file)
        if is_file:
            with open(os.path.join(directory, "chat_template.jinja"), "w", encoding="utf-8") as file:
                file.write(template)
        elif name == "gemma":
            settings["chat_template"] = [dict(name="default", template=template), dict(name="short", template="{{ messages[0].content }}")]
        else:
            settings["chat_template"] = template
        with open(os.path.join(directory, "tokenizer_config.json"), "w", encoding="utf-8") as file:
            json.dump(settings, file, ensure_ascii=False, indent=1)
        tokenizer = AutoTokenizer.from_pretrained(directory)
        for text in TEXTS:
            plain = tokenizer(text, add_special_tokens=False)["input_ids"]
            whole = tokenizer(text)["input_ids"]
            expected["texts"].append(
                dict(
                    family=name,
                    text=text,
                    plain=plain,
                    whole=whole,
                    decoded=tokenizer.decode(whole),
                    without_special=tokenizer.decode(whole, skip_special_tokens=True),
                )
            )
        variables = dict(date_string="26 Jul 2024") if name == "llama3" else {}
        for chat in CHATS:
            for prompt in [False, True]:
                ways = [variables]
                if name == "qwen3" and prompt:
                    ways.append(dict(enable_thinking=False))
                for way in ways:
                    result = rendered(tokenizer, chat, prompt, way)
                    if "text" in result:
                        result["tokens"] = tokenizer(result["text"], add_special_tokens=False)["input_ids"]
                    expected["chats"].append(dict(family=name, messages=chat, prompt=prompt, variables=way, **result))
    tokenizer = AutoTokenizer.from_pretrained(os.path.join(HERE, "zephyr"))
    for snippet in SNIPPETS:
        chat = CHATS[2]
        result = rendered(tokenizer, chat, True, {}, snippet)
        expected["snippets"].append(dict(template=snippet, **result))
    expected["generation"] = [dict(file=settings, drawn=drawn(settings)) for settings in GENERATION]
    expected["conversation"] = conversation()
    with open(os.path.join(HERE, "expected.json"), "w", encoding="utf-8") as file:
        json.dump(expected, file, ensure_ascii=False, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
