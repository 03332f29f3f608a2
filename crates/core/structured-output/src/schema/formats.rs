//! The formats of strings that can be enforced, as expressions for the whole string.
//!
//! Each is at most what its specification allows, and never more: no leap seconds, no punycode
//! check where a label has two hyphens in a row, no quoted local parts.

use std::sync::LazyLock;

/// Formats that say how a string is to be treated and nothing of its text.
const FREE: [&str; 6] = ["password", "binary", "path", "file-path", "directory-path", "textarea"];

const DAY: &str = concat!(
    "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])",
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)",
    "|02-(?:0[1-9]|1[0-9]|2[0-8]))",
    "|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)",
);
const TIME: &str = concat!(
    r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?",
    "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])",
);
const DURATION: &str = concat!(
    "P(?:(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)(?:T{t})?",
    "|T{t}|[0-9]+W)",
);
const DURATION_TIME: &str = "(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)";
const LOCAL_PART: &str = concat!(
    r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,32}",
    r"(?:\.[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,8}){0,3}",
);
/// At most 63 characters, and no two hyphens in a row.
const LABEL: &str = "(?:[a-zA-Z0-9]{1,63}|[a-zA-Z0-9](?:-?[a-zA-Z0-9]){0,31})";
const IPV4: &str = concat!(
    r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}",
    "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])",
);
const UUID: &str = "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}";
const BASE64: &str =
    "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?";
const BASE64_URL: &str =
    "(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-][AQgw]==|[A-Za-z0-9_-]{2}[AEIMQUYcgkosw048]=)?";
const POINTER: &str = "(?:/(?:[^~/]|~[01])*)*";
const PATH_CHAR: &str = "(?:[a-zA-Z0-9._~!$&'()*+,;=:@-]|%[0-9a-fA-F]{2})";

/// What a format allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Format {
    /// Any string.
    Free,
    /// Strings that the expression matches as a whole, of at most so many characters.
    Expression(&'static str, Option<u64>),
}

/// None if the format cannot be enforced.
pub(super) fn format(name: &str) -> Option<Format> {
    if FREE.contains(&name) {
        return Some(Format::Free);
    }
    let of = |text: &'static str| Some(Format::Expression(text, None));
    match name {
        "date" => of(DAY),
        "time" => of(TIME),
        "date-time" => of(&DATE_TIME),
        "duration" => of(&DURATIONS),
        "email" => Some(Format::Expression(&EMAIL, Some(254))),
        "hostname" => Some(Format::Expression(&HOSTNAME, Some(253))),
        "ipv4" => of(IPV4),
        "ipv6" => of(&IPV6),
        "uuid" => of(UUID),
        "uri" => of(&URI),
        "uri-reference" => of(&URI_REFERENCE),
        "json-pointer" => of(POINTER),
        "relative-json-pointer" => of(&RELATIVE_POINTER),
        "base64" | "byte" => of(BASE64),
        "base64url" => of(BASE64_URL),
        _ => None,
    }
}

static DATE_TIME: LazyLock<String> = LazyLock::new(|| format!("{DAY}T{TIME}"));
static DURATIONS: LazyLock<String> = LazyLock::new(|| DURATION.replace("{t}", DURATION_TIME));
static HOSTNAME: LazyLock<String> = LazyLock::new(|| format!(r"{LABEL}(?:\.{LABEL}){{0,126}}"));
static EMAIL: LazyLock<String> =
    LazyLock::new(|| format!(r"{LOCAL_PART}@{LABEL}(?:\.{LABEL}){{0,8}}"));
static RELATIVE_POINTER: LazyLock<String> =
    LazyLock::new(|| format!("(?:0|[1-9][0-9]*)(?:#|{POINTER})"));
static URI: LazyLock<String> =
    LazyLock::new(|| format!("[a-zA-Z][a-zA-Z0-9+.-]*:{}", rest_of_uri(PATH_CHAR)));
static URI_REFERENCE: LazyLock<String> = LazyLock::new(|| {
    // The first segment of a relative path has no colon, or it would be a scheme.
    let first = PATH_CHAR.replace(":@", "@");
    format!("(?:{}|{})", URI.as_str(), rest_of_uri(&first))
});

/// What follows a scheme: authority, path, query and fragment, each as it is there.
fn rest_of_uri(first: &str) -> String {
    let name = "(?:[a-zA-Z0-9._~!$&'()*+,;=-]|%[0-9a-fA-F]{2})*";
    let user = "(?:(?:[a-zA-Z0-9._~!$&'()*+,;=:-]|%[0-9a-fA-F]{2})*@)?";
    let host = format!(r"(?:{name}|\[{}\])", IPV6.as_str());
    let slashes = format!("(?:/{PATH_CHAR}*)*");
    let path = format!(
        "(?://{user}{host}(?::[0-9]*)?{slashes}|/(?:{PATH_CHAR}+{slashes})?|(?:{first}+{slashes})?)"
    );
    let tail = "(?:[a-zA-Z0-9._~!$&'()*+,;=:@/?-]|%[0-9a-fA-F]{2})*";
    format!(r"{path}(?:\?{tail})?(?:#{tail})?")
}

/// RFC 3986: eight groups, a run of which may be `::`; the last two may be an IPv4 address.
static IPV6: LazyLock<String> = LazyLock::new(|| {
    let group = "[0-9a-fA-F]{1,4}";
    let last = format!("(?:{group}:{group}|{IPV4})");
    let mut forms = vec![format!("(?:{group}:){{6}}{last}")];
    for behind in (0..=5usize).rev() {
        let before = 5 - behind;
        let lead = match before {
            0 => String::new(),
            n => format!("(?:(?:{group}:){{0,{}}}{group})?", n - 1),
        };
        forms.push(format!("{lead}::(?:{group}:){{{behind}}}{last}"));
    }
    forms.push(format!("(?:(?:{group}:){{0,5}}{group})?::{group}"));
    forms.push(format!("(?:(?:{group}:){{0,6}}{group})?::"));
    format!("(?:{})", forms.join("|"))
});
