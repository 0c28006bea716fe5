//! `lm download`.

#[cfg(feature = "download")]
use std::collections::BTreeSet;

#[cfg(feature = "download")]
use safetensors::SafeTensors;

#[cfg(feature = "download")]
use super::MODEL;
#[cfg(not(feature = "download"))]
use super::run;
use crate::Folder;
#[cfg(feature = "download")]
use crate::text;

#[cfg(not(feature = "download"))]
#[test]
fn a_program_without_downloads_says_how_to_get_one() {
    let folder = Folder::new();
    let error = run(&folder, &["download", "gpt2", "new"]).unwrap_err();
    assert!(error.contains("--features tokenizers,download"), "{error}");
}

/// A site for as long as the test lasts: the small model under `tiny`, the same with its weights cut off under `cut`, and
/// another directory under `several`.
#[cfg(feature = "download")]
fn site(several: std::path::PathBuf) -> String {
    use std::io::{BufRead, BufReader, Write};

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let request = lines.next().unwrap_or_default();
            lines.find(String::is_empty);
            let path = request.split(' ').nth(1).unwrap_or_default();
            let found = path.strip_prefix('/').and_then(|path| {
                let (name, file) = path.split_once("/resolve/main/")?;
                let directory = match name {
                    "tiny" | "cut" => std::path::Path::new(MODEL),
                    "several" => &several,
                    _ => return None,
                };
                let bytes = std::fs::read(directory.join(file)).ok();
                Some((name, file, bytes?))
            });
            let _ = match found {
                None => write!(
                    stream,
                    "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                ),
                Some((name, file, bytes)) => {
                    let sent = match (name, file) {
                        ("cut", "model.safetensors") => &bytes[..1000],
                        _ => &bytes[..],
                    };
                    let length = bytes.len();
                    write!(
                        stream,
                        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
                    )
                    .and_then(|()| stream.write_all(sent))
                }
            };
        }
    });
    format!("http://{address}")
}

#[cfg(feature = "download")]
#[test]
fn a_model_is_fetched_whole_or_not_at_all() {
    let folder = Folder::new();
    let site = site(folder.0.join("several"));
    let fetch = |name: &str, directory: &str, site: &str| {
        let mut command = folder.command_of("lm", &["download", name, directory, "--from", site]);
        let output = command.env("NO_PROXY", "127.0.0.1").output().unwrap();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    };
    let printed = fetch("tiny", "models/tiny", &site).unwrap();
    assert!(
        printed.ends_with("36,736 parameters, 288 tokens: models/tiny\n"),
        "{printed}"
    );
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let original = std::fs::read(format!("{MODEL}/{name}")).unwrap();
        assert!(
            folder.read(&format!("models/tiny/{name}")) == original,
            "{name}"
        );
    }

    // Weights in several files.
    let original = std::fs::read(format!("{MODEL}/model.safetensors")).unwrap();
    let original = SafeTensors::deserialize(&original).unwrap();
    let names: BTreeSet<&str> = original.names().into_iter().collect();
    let mut index = serde_json::json!({ "weight_map": {} });
    std::fs::create_dir(folder.0.join("several")).unwrap();
    for (file, is_first) in [("a.safetensors", true), ("b.safetensors", false)] {
        let chosen = names
            .iter()
            .filter(|name| name.contains(".h.0.") == is_first);
        let tensors: Vec<_> = chosen
            .map(|name| (*name, original.tensor(name).unwrap()))
            .collect();
        for (name, _) in &tensors {
            index["weight_map"][*name] = file.into();
        }
        let bytes = safetensors::serialize(tensors, None).unwrap();
        folder.write(&format!("several/{file}"), bytes);
    }
    folder.write("several/model.safetensors.index.json", index.to_string());
    for name in ["config.json", "vocab.json", "merges.txt", "tokenizer.json"] {
        if let Ok(bytes) = std::fs::read(format!("{MODEL}/{name}")) {
            folder.write(&format!("several/{name}"), bytes);
        }
    }
    folder.write("several/generation_config.json", "{\"eos_token_id\": 7}");
    folder.write("several/chat_template.jinja", "{{ messages }}");
    let printed = fetch("several", "models/several", &site).unwrap();
    assert!(
        printed.ends_with("36,736 parameters, 288 tokens: models/several\n"),
        "{printed}"
    );
    for entry in std::fs::read_dir(folder.0.join("several")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let [theirs, ours] =
            ["several", "models/several"].map(|at| folder.read(&format!("{at}/{name}")));
        assert!(theirs == ours, "{name}");
    }
    let error = fetch("several", "models/tiny", &site).unwrap_err();
    assert!(
        error.contains(
            "models/tiny holds another model's model.safetensors: name another directory"
        ),
        "{error}"
    );
    let outside = index
        .to_string()
        .replace("a.safetensors", "../a.safetensors");
    folder.write("several/model.safetensors.index.json", outside);
    let error = fetch("several", "models/outside", &site).unwrap_err();
    assert!(
        error.contains("its weight_map names \"../a.safetensors\", which is no file's name"),
        "{error}"
    );

    // A broken connection leaves no half of a file, also none beside.
    let error = fetch("cut", "cut", &site).unwrap_err();
    assert!(
        error.contains("/cut/resolve/main/model.safetensors: "),
        "{error}"
    );
    let left = std::fs::read_dir(folder.0.join("cut")).unwrap();
    let left: BTreeSet<_> = left
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(
        left,
        BTreeSet::from(["config.json", "tokenizer.json"].map(str::to_owned))
    );

    let error = fetch("none", "none", &site).unwrap_err();
    assert!(error.contains("has no model `none`"), "{error}");
    let error = fetch("a b", "none", &site).unwrap_err();
    assert!(error.contains("`a b` is no name of a model"), "{error}");
    // Nobody listens at a port that has been let go.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = fetch("tiny", "none", &format!("http://127.0.0.1:{port}")).unwrap_err();
    assert!(
        error.starts_with("error: cannot reach ")
            && error.contains("Without a network, get config.json"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");
}
