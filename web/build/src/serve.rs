//! A server for one person on this machine: files as they are now, with the types that browsers insist on.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use tiny_http::{Header, Method, Request, Response, Server};

/// Takes the port, on 127.0.0.1 alone.
///
/// # Errors
///
/// If another program has it.
pub fn listen(port: u16) -> Result<Server> {
    Server::http(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .map_err(|error| anyhow!("can't listen on 127.0.0.1:{port} ({error}): choose another port with --port, or 0 for any"))
}

/// Serves `directory` until the program is ended.
///
/// # Errors
///
/// If the browser can't be opened.
pub fn serve(server: &Server, directory: &Path, open: bool) -> Result<()> {
    let address = format!("http://{}/", server.server_addr());
    println!("{address} (Ctrl-C ends it)");
    if open {
        open_browser(&address)?;
    }
    for request in server.incoming_requests() {
        let line = format!("{} {}", request.method(), request.url());
        // One request that fails, of a reader that went away for instance, is not the end.
        if let Err(error) = answer(request, directory) {
            eprintln!("{line}: {error:#}");
        }
    }
    Ok(())
}

fn answer(request: Request, directory: &Path) -> Result<()> {
    if !matches!(request.method(), Method::Get | Method::Head) {
        return Ok(
            request.respond(Response::from_string("only GET and HEAD").with_status_code(405))?
        );
    }
    let found = file_of(request.url())
        .and_then(|path| Some((File::open(directory.join(&path)).ok()?, path)));
    match found {
        Some((file, path)) => {
            let response = Response::from_file(file)
                .with_header(header("Content-Type", media_type(&path)))
                // What was built a moment ago is what is meant.
                .with_header(header("Cache-Control", "no-store"));
            Ok(request.respond(response)?)
        }
        None => Ok(request.respond(Response::from_string("no such file").with_status_code(404))?),
    }
}

fn header(name: &str, value: &str) -> Header {
    Header::from_bytes(name, value).expect("plain text")
}

/// The file that an address of this server names, below the directory; nothing outside of it has a name.
fn file_of(url: &str) -> Option<PathBuf> {
    let path = url.split(['?', '#']).next()?.strip_prefix('/')?;
    let path = PathBuf::from(if path.is_empty() || path.ends_with('/') {
        format!("{path}index.html")
    } else {
        path.to_owned()
    });
    path.components()
        .all(|component| matches!(component, Component::Normal(_)))
        .then_some(path)
}

/// Browsers run no module script of another type, and compile no module while it arrives.
fn media_type(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("css") => "text/css; charset=utf-8",
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("json" | "webmanifest") => "application/json",
        Some("png") => "image/png",
        Some("svg") => "image/svg+xml",
        Some("txt") => "text/plain; charset=utf-8",
        Some("wasm") => "application/wasm",
        _ => "application/octet-stream",
    }
}

fn open_browser(address: &str) -> Result<()> {
    let program = match std::env::consts::OS {
        "macos" => "open",
        "windows" => "explorer",
        _ => "xdg-open",
    };
    Command::new(program)
        .arg(address)
        .spawn()
        .with_context(|| format!("can't open the browser by {program}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_files_of_the_directory_alone() {
        assert_eq!(file_of("/").unwrap(), Path::new("index.html"));
        assert_eq!(
            file_of("/?program=train_names&n-layers=2").unwrap(),
            Path::new("index.html")
        );
        assert_eq!(
            file_of("/shadegrad_web_bg.wasm").unwrap(),
            Path::new("shadegrad_web_bg.wasm")
        );
        assert_eq!(file_of("/fonts/a.css").unwrap(), Path::new("fonts/a.css"));
        for outside in [
            "/../Cargo.toml",
            "/a/../../Cargo.toml",
            "//etc/passwd",
            "http://elsewhere/",
            "*",
        ] {
            assert_eq!(file_of(outside), None, "{outside}");
        }
    }
}
