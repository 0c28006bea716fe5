//! A server for one person on this machine: files as they are now, with the types that browsers insist on.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use oxhttp::model::{Body, Method, Request, Response, StatusCode, header};
use oxhttp::{ListeningServer, Server};

/// Where to listen, on 127.0.0.1 alone.
///
/// # Errors
///
/// If another program has the port.
pub fn address(port: u16) -> Result<SocketAddr> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = TcpListener::bind(address).map_err(|error| {
        anyhow!(
            "can't listen on {address} ({error}): choose another port with --port, or 0 for any"
        )
    })?;
    Ok(listener.local_addr()?)
}

/// Serves `directory` until the program is ended.
///
/// # Errors
///
/// If another program has taken the port meanwhile, or the browser can't be opened.
pub fn serve(address: SocketAddr, directory: &Path, open: bool) -> Result<()> {
    let server = start(address, directory)?;
    let address = format!("http://{address}/");
    println!("{address} (Ctrl-C ends it)");
    if open {
        open_browser(&address)?;
    }
    Ok(server.join()?)
}

/// A server that has begun to listen.
fn start(address: SocketAddr, directory: &Path) -> Result<ListeningServer> {
    let directory = directory.to_owned();
    let server = Server::new(move |request| answer(request, &directory)).bind(address);
    Ok(server.spawn()?)
}

fn answer(request: &Request<Body>, directory: &Path) -> Response<Body> {
    let refuse = |status, said: &'static str| {
        let response = Response::builder().status(status);
        response.body(Body::from(said)).expect("plain text")
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
    }
    let path = file_of(request.uri().path());
    let found = path.and_then(|path| Some((fs::read(directory.join(&path)).ok()?, path)));
    let Some((bytes, path)) = found else {
        return refuse(StatusCode::NOT_FOUND, "no such file");
    };
    Response::builder()
        .header(header::CONTENT_TYPE, media_type(&path))
        // What was built a moment ago is what is meant.
        .header(header::CACHE_CONTROL, "no-store")
        .body(Body::from(bytes))
        .expect("these are headers")
}

/// The file that a path of this server names, below the directory; nothing outside of it has a name.
fn file_of(path: &str) -> Option<PathBuf> {
    let path = path.strip_prefix('/')?;
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
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;

    #[test]
    fn addresses_name_files_of_the_directory_alone() {
        assert_eq!(file_of("/").unwrap(), Path::new("index.html"));
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

    /// A browser opens several connections at once, keeps them, and asks for a dozen files.
    #[test]
    fn all_connections_are_answered() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let address = address(0).unwrap();
        let _server = start(address, &directory).unwrap();
        let connections: Vec<TcpStream> = (0..24)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        for mut connection in &connections {
            connection
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            let request = "GET /serve.rs?a=1 HTTP/1.1\r\nHost: localhost\r\n\r\n";
            connection.write_all(request.as_bytes()).unwrap();
        }
        for mut connection in &connections {
            let mut head = [0; 15];
            connection.read_exact(&mut head).unwrap();
            assert_eq!(&head, b"HTTP/1.1 200 OK");
        }
    }
}
