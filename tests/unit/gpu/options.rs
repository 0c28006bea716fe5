//! What the environment says of a device.

use super::Feature;

#[test]
fn features_by_variable() {
    use Feature::{Auto, Off, On};
    for (option, value, expected) in [
        (Auto, "", Auto),
        (On, "", On),
        (Off, "", Off),
        (Auto, "on", On),
        (Off, "on", Off),
        (Auto, "off", Off),
        (On, "off", Off),
    ] {
        assert_eq!(option.or("X", value).unwrap(), expected);
    }
    let refused = On.or("SHADEGRAD_F16", "no").unwrap_err();
    assert_eq!(
        refused.to_string(),
        "SHADEGRAD_F16 = no is not possible: expected `on` or `off`"
    );
}
