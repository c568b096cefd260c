use std::{fs, time::Duration};

use serde::Deserialize;

use super::*;

const DEFAULTS: &str = r#"
[door]
port = 1
patience = "2s"
password = ""
url = "postgres://app:s3cret@db/member"
[door.bounds]
"a.v1.A/Get" = 5
"#;

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Example {
    door: Door,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Door {
    port: u16,
    #[serde(with = "humantime_serde")]
    patience: Duration,
    password: Secret,
    #[serde(serialize_with = "serialize_url")]
    url: String,
    bounds: std::collections::BTreeMap<String, usize>,
}

impl Validate for Example {
    fn validate(&self, problems: &mut Problems) {
        problems.within("door", &self.door);
    }
}

impl Validate for Door {
    fn validate(&self, problems: &mut Problems) {
        problems.range("port", self.port, 1..=100);
        let range = Duration::from_secs(1)..=Duration::from_secs(9);
        problems.duration("patience", self.patience, range);
    }
}

/// Loads with `file` and `env` above the defaults.
fn load_with(file: Option<&str>, env: &[(&str, &str)]) -> Result<Example, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mesh.toml");
    fs::write(&path, file.unwrap_or_default()).unwrap();
    let env = env
        .iter()
        .filter_map(|(name, value)| Variable::new(name, (*value).to_owned()));
    load_layers(DEFAULTS, file.map(|_| path.as_path()), env.collect()).map_err(|e| e.to_string())
}

#[test]
fn the_environment_overrides_the_file_and_the_file_the_defaults() {
    let file = "[door]\nport = 2\npatience = \"3s\"\nbounds.\"b.v1.B/Get\" = 6";
    let config = load_with(Some(file), &[("COUPONMESH__DOOR__PORT", "7")]).unwrap();
    assert_eq!(config.door.port, 7);
    assert_eq!(config.door.patience, Duration::from_secs(3));
    assert_eq!(config.door.bounds["a.v1.A/Get"], 5);
    assert_eq!(config.door.bounds["b.v1.B/Get"], 6);
}

#[test]
fn text_in_the_environment_stays_text_where_text_is_wanted() {
    let config = load_with(None, &[("COUPONMESH__DOOR__PASSWORD", "007")]).unwrap();
    assert_eq!(config.door.password.expose(), "007");
}

#[test]
fn every_problem_is_reported_by_its_full_key() {
    let error = load_with(Some("[door]\nport = 300\npatience = \"1m\""), &[]).unwrap_err();
    assert_eq!(
        error,
        "configuration: door.port must be between 1 and 100, is 300; \
         door.patience must be between 1s and 9s, is 60s"
    );
}

#[test]
fn an_unknown_key_is_named_with_its_place() {
    let error = load_with(Some("[door]\nprot = 3"), &[]).unwrap_err();
    assert!(error.contains("door.prot is not a known key"), "{error}");
    assert!(error.contains("mesh.toml"), "{error}");
    let error = load_with(None, &[("COUPONMESH__DOOR__PROT", "3")]).unwrap_err();
    assert!(error.contains("door.prot is not a known key"), "{error}");
    assert!(error.contains("COUPONMESH__DOOR__PROT"), "{error}");
    let error = load_with(None, &[("COUPONMESH__DOR__PORT", "3")]).unwrap_err();
    assert!(error.contains("dor is not a known key"), "{error}");
}

#[test]
fn a_wrong_type_is_named_with_its_place() {
    let error = load_with(None, &[("COUPONMESH__DOOR__PORT", "many")]).unwrap_err();
    assert!(error.starts_with("configuration: door.port: "), "{error}");
    assert!(error.contains("COUPONMESH__DOOR__PORT"), "{error}");
    let error = load_with(Some("[door]\npatience = \"soon\""), &[]).unwrap_err();
    assert!(
        error.starts_with("configuration: door.patience: "),
        "{error}"
    );
}

#[test]
fn errors_are_one_line() {
    for text in ["[door", "[door]\nport = ", "door = 3", "[door]\nport = -1"] {
        let error = load_with(Some(text), &[]).unwrap_err();
        assert!(
            !error.contains('\n') && error.contains("mesh.toml"),
            "{error}"
        );
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = load::<Example>(DEFAULTS, Some(Path::new("/nowhere/mesh.toml"))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read configuration file /nowhere/mesh.toml"
    );
}

#[test]
fn printing_shows_no_secret() {
    let config = load_with(None, &[("COUPONMESH__DOOR__PASSWORD", "hunter2")]).unwrap();
    let printed = print(&config).unwrap();
    assert!(printed.contains("password = \"<redacted>\""), "{printed}");
    assert!(printed.contains("app:<redacted>@db/member"), "{printed}");
    assert!(printed.contains("patience = \"2s\""), "{printed}");
    let shown = format!("{printed}{:?}", config.door.password);
    assert!(
        !shown.contains("hunter2") && !shown.contains("s3cret"),
        "{shown}"
    );
}

#[test]
fn errors_quote_no_secret() {
    for password in ["hunter2", "[\"hunter2\"]", "\"hunter2", "1111"] {
        let file = format!("[door]\npassword = {password}");
        let error = load_with(Some(&file), &[]).unwrap_err();
        assert!(
            !error.contains("hunter2") && !error.contains("1111"),
            "{error}"
        );
    }
}

#[test]
fn urls_lose_their_secrets_only() {
    for (url, shown) in [
        ("sqlite://data/member.db", "sqlite://data/member.db"),
        (
            "postgres://db/m?sslmode=require",
            "postgres://db/m?sslmode=require",
        ),
        ("postgres://app@db/m", "postgres://app@db/m"),
        (
            "postgres://app:p@s%2Fw@db/m",
            "postgres://app:<redacted>@db/m",
        ),
        // Where the password ends is anybody's guess.
        ("postgres://app:p@s/w?d@db/m", "postgres://<redacted>"),
        ("postgres://app:p/w@db/m", "postgres://<redacted>"),
        (
            "postgres://db/m?options=-c%20x%3Dy&sslmode=verify-full#z",
            "postgres://db/m?options=<redacted>&sslmode=verify-full#<redacted>",
        ),
        ("postgres://db/m?x", "postgres://db/m?<redacted>"),
        (
            "http://ann:pw@coupon:50051",
            "http://<redacted>@coupon:50051",
        ),
        ("http://[::1]:50051", "http://[::1]:50051"),
        (
            "postgres://db/m?password=x&host=b",
            "postgres://db/m?password=<redacted>&host=b",
        ),
        ("nats://t0ken@nats:4222", "nats://<redacted>@nats:4222"),
        ("t0ken@nats:4222", "<redacted>@nats:4222"),
        ("nats:4222", "nats:4222"),
        ("", ""),
        ("app:pw", "<redacted>"),
        ("not a url", "<redacted>"),
    ] {
        assert_eq!(redact_url(url), shown);
    }
}
