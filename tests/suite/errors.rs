//! What messages look like.

use shadegrad::Error;
use shadegrad::data::excerpt;

#[test]
fn sizes_have_units() {
    for (needed, expected) in [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1_610_612_736, "1.5 GiB"),
        (u64::MAX, "16777216.0 TiB"),
    ] {
        let error = Error::Limit {
            what: "buffer `x`, in bytes,".to_owned(),
            needed,
            limit: 1,
        };
        let expected = format!("buffer `x` needs {expected}, this adapter's limit is 1 bytes");
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
}

#[test]
fn excerpts_are_cut_between_characters() {
    assert_eq!(excerpt("", 0), "");
    assert_eq!(excerpt("zoé", 3), "zoé");
    assert_eq!(excerpt("ééééé", 4), "ééé … (5 characters) … é");
}

#[test]
fn no_message_is_as_long_as_what_it_is_about() {
    let long = || "é".repeat(10_000_000);
    for error in [
        Error::NoSuchAdapter {
            wanted: long(),
            found: Vec::new(),
        },
        Error::Limit {
            what: long(),
            needed: 2,
            limit: 1,
        },
        Error::NotUtf8 {
            path: long().into(),
            offset: 1,
        },
        Error::EmptyData { what: long() },
        Error::TextTooShort {
            what: long(),
            len: 1,
            needed: 2,
        },
        Error::InvalidArgument {
            name: long(),
            value: long(),
            expected: long(),
        },
        Error::Parameter {
            name: long(),
            reason: long(),
        },
        Error::Checkpoint {
            path: long().into(),
            reason: long(),
        },
    ] {
        let length = error.to_string().chars().count();
        assert!(length < 3000, "{length}");
    }
}
