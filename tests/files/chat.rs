//! Texts and chats as `transformers` has them: `golden/chat`, by its `make_chat.py`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use shadegrad::hugging_face::{ChatTemplate, Message, Tokenizer};

fn golden(family: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/golden/chat", family]
        .iter()
        .collect()
}

fn expected(list: &str) -> Vec<Value> {
    let json = fs::read(golden("expected.json")).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    json[list].as_array().unwrap().clone()
}

fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chat_{name}"));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

fn tokens(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Whether two answers are the same: texts, or errors, whatever they say.
fn compare(case: &Value, answer: &shadegrad::Result<String>, wrong: &mut Vec<String>) {
    let is_same = match answer {
        Ok(text) => case["text"].as_str() == Some(text),
        Err(error) => case["error"].is_string() && error.to_string().lines().count() == 1,
    };
    if !is_same {
        wrong.push(format!("{case}\n  → {answer:?}"));
    }
}

#[test]
fn texts_with_and_without_special_tokens() {
    let cases = expected("texts");
    assert!(cases.len() > 40);
    for case in cases {
        let tokenizer = Tokenizer::open(golden(case["family"].as_str().unwrap())).unwrap();
        let text = case["text"].as_str().unwrap();
        assert_eq!(
            tokenizer.encode(text).unwrap(),
            tokens(&case["plain"]),
            "{case}"
        );
        let whole = tokenizer.encode_with_special_tokens(text).unwrap();
        assert_eq!(whole, tokens(&case["whole"]), "{case}");
        assert_eq!(case["decoded"], tokenizer.decode(&whole).unwrap());
        let read = tokenizer.decode_without_special_tokens(&whole).unwrap();
        assert_eq!(case["without_special"], read, "{case}");
    }
}

#[test]
fn chats_of_all_families() {
    let cases = expected("chats");
    assert!(cases.len() > 200);
    let mut wrong = Vec::new();
    for case in &cases {
        let directory = golden(case["family"].as_str().unwrap());
        let mut template = ChatTemplate::open(&directory).unwrap();
        for (name, value) in case["variables"].as_object().unwrap() {
            template = template.with_variable(name, value);
        }
        let messages = case["messages"].as_array().unwrap();
        let answer = template.render(messages, case["prompt"] == true);
        compare(case, &answer, &mut wrong);
        if let Ok(text) = answer {
            let ids = Tokenizer::open(&directory).unwrap().encode(&text).unwrap();
            assert_eq!(ids, tokens(&case["tokens"]), "{case}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A template by itself, in a directory with the special tokens of a family.
fn template(name: &str, source: &str) -> shadegrad::Result<ChatTemplate> {
    let directory = scratch(name);
    let settings = golden("zephyr/tokenizer_config.json");
    fs::copy(settings, directory.join("tokenizer_config.json")).unwrap();
    fs::write(directory.join("chat_template.jinja"), source).unwrap();
    ChatTemplate::open(&directory)
}

fn ask() -> [Message; 1] {
    [Message::new("user", "Who was Ralph?")]
}

#[test]
fn what_templates_may_do() {
    let messages = [
        Message::new("user", "Who was Ralph?"),
        Message::new("assistant", "A good cat."),
        Message::new("user", "Is he here?"),
    ];
    let cases = expected("snippets");
    assert!(cases.len() > 25);
    let mut wrong = Vec::new();
    for case in &cases {
        let source = case["template"].as_str().unwrap();
        let answer =
            template("snippets", source).and_then(|template| template.render(&messages, true));
        compare(case, &answer, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Neither without end nor beyond measure, and no message that is more than a line.
/// What Python's `repr` escapes; an accent is printed, also at the beginning of a text. And what a sequence is.
#[test]
fn values_are_as_python_sees_them() {
    for (source, expected) in [
        (
            "{{ 'a' is sequence }}{{ {} is sequence }}{{ [] is sequence }}{{ 1 is sequence }}{{ nothing is sequence }}",
            "TrueTrueTrueFalseTrue",
        ),
        (
            r"{{ ['\u00a0\u200b\u2028\u3000\u00ad'] }}",
            r"['\xa0\u200b\u2028\u3000\xad']",
        ),
        (r"{{ ['\ue000\u0378\ufeff'] }}", r"['\ue000\u0378\ufeff']"),
        (r"{{ ['\u0301é東🙂 ~'] }}", "['\u{301}é東🙂 ~']"),
        ("{{ ['\u{f0000}'] }}", r"['\U000f0000']"),
    ] {
        let template = template("repr", source).unwrap();
        assert_eq!(
            template.render(&ask(), false).unwrap(),
            expected,
            "{source}"
        );
    }
}

#[test]
fn hostile_templates_are_stopped() {
    let deep = |open: &str, close: &str| open.repeat(100_000) + "1" + &close.repeat(100_000);
    for (name, source) in [
        ("loops", "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}".to_owned()),
        ("output", "{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}".to_owned()),
        ("range", "{{ range(10 ** 18) | list }}".to_owned()),
        ("text", "{{ 'x' * 10 ** 12 }}".to_owned()),
        (
            "doubling",
            "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s | length }}".to_owned(),
        ),
        ("recursion", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".to_owned()),
        ("format", "{{ '%999999999999d' | format(1) }}".to_owned()),
        ("nested_method", "{{ '{:{}}'.format(1, 10 ** 12) }}".to_owned()),
        ("method", "{{ '{:999999999999}'.format(1) }}".to_owned()),
        (
            "nested",
            "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}".to_owned(),
        ),
        (
            "json",
            "{% set ns = namespace(l={}) %}{% for i in range(99999) %}{% set ns.l = {1: ns.l} %}{% endfor %}{{ ns.l | tojson }}".to_owned(),
        ),
        (
            "wide",
            "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}".to_owned(),
        ),
        (
            "deep",
            "{% set ns = namespace(l=[]) %}{% for i in range(30000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l ~ '' == [ns.l] ~ '' }}{{ ns.l == [ns.l] }}{{ 1 + '' }}".to_owned(),
        ),
        (
            "equal",
            "{% set ns = namespace(l=[1], m=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, ns.m] %}{% endfor %}{{ ns.l == ns.m }}".to_owned(),
        ),
        ("indent", "{{ [[[1]]] | tojson(indent=10 ** 12) }}{{ 'x' * 10 ** 12 }}".to_owned()),
        ("brackets", format!("{{{{ {} }}}}", deep("(", ")"))),
        ("lists", format!("{{{{ {} }}}}", deep("[", "]"))),
        ("blocks", "{% if 1 %}".repeat(100_000)),
        ("include", "{% include 'tokenizer_config.json' %}".to_owned()),
        ("files", "{{ open('/etc/passwd') }}".to_owned()),
        ("long", format!("{{{{ raise_exception('a\\nb' * {}) }}}}", 1_000_000)),
    ] {
        let began = std::time::Instant::now();
        let answer = template("hostile", &source).and_then(|template| template.render(&ask(), true));
        let error = answer.map(|text| text.len()).expect_err(name).to_string();
        assert!(error.contains("chat_template.jinja: its chat template fails"), "{name}: {error}");
        assert!(error.lines().count() == 1 && error.len() < 2000, "{name}: {error}");
        let took = began.elapsed().as_secs();
        assert!(took < 20, "{name}: {took} s");
    }
}

#[test]
fn a_refused_chat_says_what_the_template_says() {
    let template = ChatTemplate::open(golden("mistral")).unwrap();
    let error = template
        .render(&[Message::new("assistant", "a")], true)
        .unwrap_err();
    let error = error.to_string();
    assert!(
        error.ends_with(
            "chat_template.jinja: its chat template fails in line 11: After the optional system message, conversation roles must alternate user/assistant/user/assistant/..."
        ),
        "{error}"
    );
    let none: [Message; 0] = [];
    let error = template.render(&none, true).unwrap_err().to_string();
    assert!(error.contains("messages = no message"), "{error}");
    let error = template.render(&["text"], true).unwrap_err().to_string();
    assert!(error.contains("a message that is a string"), "{error}");
}

#[test]
fn dates_are_of_today() {
    let today = template("today", "{{ strftime_now('%d %b %Y') }}").unwrap();
    let today = today.render(&ask(), false).unwrap();
    let parts: Vec<&str> = today.split(' ').collect();
    let [day, month, year] = parts[..] else {
        panic!("{today}")
    };
    let months = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec";
    assert!(
        day.len() == 2 && (1..=31).contains(&day.parse().unwrap()),
        "{today}"
    );
    assert!(months.split(' ').any(|name| name == month), "{today}");
    assert!((2026..2200).contains(&year.parse().unwrap()), "{today}");
    // As Python writes dates without a time zone in the locale C.
    let same = [
        ("%x", "%m/%d/%y"),
        ("%c", "%a %b %e %H:%M:%S %Y"),
        ("%r", "%I:%M:%S %p"),
        ("[%z%Z]", "[]"),
    ];
    for (format, expected) in same {
        let source =
            format!("{{{{ strftime_now('{format}') }}}}|{{{{ strftime_now('{expected}') }}}}");
        // A second may end between the two.
        let is_same = |_| {
            let text = template("dates", &source)
                .unwrap()
                .render(&ask(), false)
                .unwrap();
            text.split_once('|').is_some_and(|(a, b)| a == b)
        };
        assert!((0..3).any(is_same), "{format}");
    }
    let text = template("no_zone", "{{ strftime_now('%%Z') }}").unwrap();
    assert_eq!(text.render(&ask(), false).unwrap(), "%Z");
    let wrong = template("no_date", "{{ strftime_now('%!') }}").unwrap();
    wrong.render(&ask(), false).unwrap_err();
}

/// Which of several templates is taken, and what is no template.
#[test]
fn where_templates_are_found() {
    let directory = scratch("found");
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let open = |name: &str| match ChatTemplate::open_named(&directory, name) {
        Ok(template) => template.render(&ask(), true).unwrap(),
        Err(error) => error.to_string(),
    };
    assert!(open("default").contains("it has no chat template, neither chat_template.jinja"));
    for settings in [
        json!([1]),
        json!([{"name": "a"}]),
        json!(1),
        json!({"a": 1}),
    ] {
        write(
            "tokenizer_config.json",
            &json!({ "chat_template": settings }).to_string(),
        );
        let error = open("default");
        assert!(
            error.contains("tokenizer_config.json: it has no chat template that can"),
            "{error}"
        );
    }
    write("tokenizer_config.json", r#"{"chat_template": null}"#);
    assert!(open("default").contains("it has no chat template, neither"));
    write(
        "tokenizer_config.json",
        r#"{"chat_template": "one {{ eos_token }}", "eos_token": {"content": "</s>"}}"#,
    );
    assert_eq!(open("default"), "one </s>");
    let several =
        json!([{"name": "default", "template": "two"}, {"name": "tool_use", "template": "three"}]);
    write(
        "tokenizer_config.json",
        &json!({ "chat_template": several }).to_string(),
    );
    assert_eq!([open("default"), open("tool_use")], ["two", "three"]);
    assert!(open("rag").ends_with("it has no chat template `rag`, only default, tool_use"));
    // Files come before settings, all of them.
    write("additional_chat_templates/rag.jinja", "four\r\n");
    assert!(open("default").ends_with("it has no chat template `default`, only rag"));
    write("chat_template.jinja", "five\n\n");
    assert_eq!([open("default"), open("rag")], ["five\n", "four"]);
    assert!(open("tool_use").ends_with("only default, rag"));
    fs::write(directory.join("chat_template.jinja"), [b'a', 0xff]).unwrap();
    assert!(open("default").contains("chat_template.jinja: it has no chat template that can"));
}

/// Numbers without order, the same in each run.
fn numbers(seed: u64) -> impl Iterator<Item = u32> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    })
}

const FAMILIES: [&str; 8] = [
    "../gpt2_tiny",
    "chatml",
    "llama3",
    "zephyr",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
];

/// Whatever the tokens are, what has been streamed is what all of them are together.
#[test]
fn streams_of_tokens_give_the_whole_text() {
    for family in FAMILIES {
        let tokenizer = Tokenizer::open(golden(family)).unwrap();
        let size = tokenizer.vocab_size() as u32;
        let text =
            "  Who was Ralph?\n\n 東京 🙂🙂 naïve\u{301} <|im_end|></s><end_of_turn> — 1863 ";
        let mut cases = vec![
            Vec::new(),
            tokenizer.encode_with_special_tokens(text).unwrap(),
        ];
        for seed in 0..300 {
            let length = seed as usize % 40;
            // All tokens and some that there aren't; mostly those of bytes; one of each text.
            let most = [size + 2, 262, 40][seed as usize % 3];
            let mut tokens: Vec<u32> = numbers(seed).map(|n| n % most).take(length).collect();
            if seed % 5 == 0 {
                tokens.extend_from_within(..length / 2);
                tokens.splice(length / 2..length / 2, cases[1].iter().copied());
            }
            cases.push(tokens);
        }
        for tokens in &cases {
            for skip in [false, true] {
                let whole = match skip {
                    true => tokenizer.decode_without_special_tokens(tokens).unwrap(),
                    false => tokenizer.decode(tokens).unwrap(),
                };
                let mut stream = tokenizer.decode_stream(skip);
                let pushed = tokens.iter().map(|&token| stream.push(token).unwrap());
                let streamed = pushed.collect::<String>() + &stream.finish().unwrap();
                assert_eq!(streamed, whole, "{family}, {skip}: {tokens:?}");
            }
        }
    }
}

/// A token's text comes with it, a character's with the last of its bytes.
#[test]
fn streams_give_text_as_soon_as_it_is_certain() {
    for family in FAMILIES {
        let tokenizer = Tokenizer::open(golden(family)).unwrap();
        let mut stream = tokenizer.decode_stream(false);
        let mut streamed = String::new();
        let text = "who was here?";
        for token in tokenizer.encode(text).unwrap() {
            streamed += &stream.push(token).unwrap();
            let held = format!("{stream:?}");
            assert!(held.contains("held: []"), "{family}: {held}");
        }
        assert_eq!(streamed, text);
        for token in tokenizer.encode("é").unwrap() {
            streamed += &stream.push(token).unwrap();
            assert!(!streamed.contains('\u{fffd}'), "{family}");
        }
        streamed += &stream.finish().unwrap();
        assert_eq!(
            streamed,
            format!("{text}é").replace(
                "?é",
                if streamed.contains("? é") {
                    "? é"
                } else {
                    "?é"
                }
            )
        );
    }
}

/// Also of bytes that are never a character: neither work nor memory grows with what has been said.
#[test]
fn long_streams_are_cheap() {
    let tokenizer = Tokenizer::open(golden("llama3")).unwrap();
    let wrong = tokenizer.encode("é").unwrap();
    for cycle in [&wrong[..1], &wrong[1..2], &[wrong[0], 1, 2]] {
        let mut stream = tokenizer.decode_stream(true);
        let mut length = 0;
        for &token in cycle.iter().cycle().take(30_000) {
            length += stream.push(token).unwrap().len();
            let kept = format!("{stream:?}").len();
            assert!(kept < 400, "{kept}: {stream:?}");
        }
        assert!(length > 29_000);
    }
}

/// Tokens that only `tokenizer_config.json` has; those that the model has no room for are not made.
#[test]
fn tokens_of_the_settings() {
    let directory = scratch("settings");
    for file in ["tokenizer.json", "config.json"] {
        fs::copy(golden("chatml").join(file), directory.join(file)).unwrap();
    }
    let size = Tokenizer::open(&directory).unwrap().vocab_size() as u32;
    let listed = |id: u32, content: &str, special: bool| json!({(id.to_string()): {"content": content, "lstrip": false, "rstrip": false, "normalized": false, "single_word": false, "special": special}});
    let mut tokens = listed(size - 1, "<|im_end|>", true);
    tokens
        .as_object_mut()
        .unwrap()
        .extend(listed(size, "<tool>", false).as_object().unwrap().clone());
    let settings = json!({"added_tokens_decoder": tokens, "eos_token": "<|im_end|>", "pad_token": "<pad>", "extra_special_tokens": ["<more>"]});
    fs::write(
        directory.join("tokenizer_config.json"),
        settings.to_string(),
    )
    .unwrap();
    let open = || {
        let tokenizer = Tokenizer::open(&directory).unwrap();
        ["<tool>", "<pad>", "<more>"].map(|text| tokenizer.token(text))
    };
    assert_eq!(open(), [Some(size), Some(size + 1), Some(size + 2)]);
    let tokenizer = Tokenizer::open(&directory).unwrap();
    let tokens = tokenizer.encode("a<tool><pad><more>").unwrap();
    assert_eq!(tokens[1..], [size, size + 1, size + 2]);
    assert_eq!(
        tokenizer.decode_without_special_tokens(&tokens).unwrap(),
        "a<tool>"
    );
    let config = json!({"model_type": "llama", "vocab_size": size + 1});
    fs::write(directory.join("config.json"), config.to_string()).unwrap();
    assert_eq!(open(), [Some(size), None, None]);
}
