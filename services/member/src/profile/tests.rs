//! Addresses and names as people, their keyboards and their enemies type them.

use proptest::{collection::vec, prelude::*};
use unicode_normalization::UnicodeNormalization as _;

use super::*;

/// Lines of a sample of Unicode's own test strings, without comments.
fn sample(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines().filter(|line| !line.starts_with('#'))
}

fn email(text: &str) -> Option<String> {
    let email = Email::parse(text).inspect_err(|wrong| assert_eq!(wrong.field, "email"));
    Some(email.ok()?.expose().to_owned())
}

fn name(text: &str) -> Option<String> {
    let name = DisplayName::parse(text);
    let name = name.inspect_err(|wrong| assert_eq!(wrong.field, "display_name"));
    Some(name.ok()?.expose().to_owned())
}

#[test]
fn one_person_has_one_address_however_it_is_typed() {
    for (stored, typed) in [
        (
            "ann@example.com",
            [
                "Ann@Example.COM",
                " ann@example.com\u{3000}",
                "\"ann\"@example.com",
                "\"a\\n\\n\"@example.com",
                "ａｎｎ＠ｅｘａｍｐｌｅ．ｃｏｍ",
                "ann@example。com",
            ],
        ),
        (
            "ann@xn--bcher-kva.example",
            [
                "ann@bücher.example",
                "ann@bu\u{308}cher.example",
                "ann@BÜCHER.example",
                "ann@ｂücher.example",
                "ann@XN--BCHER-KVA.example",
                "ann@b\u{ad}ücher.example",
            ],
        ),
        (
            "jos\u{e9}@example.com",
            [
                "jose\u{301}@example.com",
                "JOSÉ@example.com",
                "\"José\"@example.com",
                "ｊｏｓé@example.com",
                "josé@EXAMPLE.com",
                "JOSE\u{301}@example.com",
            ],
        ),
        (
            "\"ann b\"@example.com",
            [
                "\"Ann B\"@example.com",
                "\"ann\\ b\"@example.com",
                "\"\\a\\n\\n \\b\"@example.com",
                "\"ann b\"@EXAMPLE.COM",
                "＂ann b＂@example.com",
                " \"ann b\"@example.com ",
            ],
        ),
        (
            "\"a@\\\\\\\"\"@example.com",
            [
                "\"a@\\\\\\\"\"@example.com",
                "\"A@\\\\\\\"\"@example.com",
                "\"\\a@\\\\\\\"\"@example.com",
                "\"a\\@\\\\\\\"\"@example.com",
                "\"a＠\\\\\\\"\"@example.com",
                "\"a@\\\\\\\"\"@example．com",
            ],
        ),
    ] {
        for typed in typed {
            assert_eq!(email(typed).as_deref(), Some(stored), "{typed:?}");
        }
    }
}

#[test]
fn letters_of_every_script_are_right_before_the_at() {
    for address in [
        "用户@example.com",
        "अजय@example.com",
        "अर्जुन@example.com",
        "квіточка@example.com",
        "θσερ@example.com",
        "dörte@example.com",
        "o'neil+tag@example.co.uk",
    ] {
        assert_eq!(email(address).as_deref(), Some(address));
    }
}

#[test]
fn what_is_no_address_is_refused() {
    let long = format!("{}@example.com", "x".repeat(250));
    let long_local = format!("{}@example.com", "x".repeat(65));
    let huge = format!("{}@example.com", "\u{ac00}".repeat(10_000));
    for bad in [
        "",
        " ",
        "ann",
        "@example.com",
        "ann@",
        "a b@example.com",
        ".ann@example.com",
        "a..b@example.com",
        "\"\"@example.com",
        "\"ann@example.com",
        "\"a\"b\"@example.com",
        "\"a\\é\"@example.com",
        "ann@ex\u{7}ample.com",
        "a\0@example.com",
        "Ann <ann@example.com>",
        "a@b@c.example",
        // No domain of the DNS.
        "a@localhost",
        "a@127.0.0.1",
        "a@[127.0.0.1]",
        "a@[IPv6:::1]",
        "a@com",
        "a@example.com.",
        "a@.example.com",
        "a@exa mple.com",
        "a@exa_mple.com",
        "a@-example.com",
        "a@xn--a.example",
        // What nobody sees.
        "a\u{200b}nn@example.com",
        "a\u{ad}nn@example.com",
        "a\u{200d}nn@example.com",
        "ann\u{fe0f}@example.com",
        "\u{feff}ann@example.com",
        "a\u{3164}nn@example.com",
        "a\u{2800}nn@example.com",
        "\"a\u{a0}nn\"@example.com",
        "\u{202e}ann@example.com",
        "a\u{fffd}@example.com",
        "a\u{e000}@example.com",
        "a\u{378}@example.com",
        &long,
        &long_local,
        &huge,
    ] {
        assert_eq!(email(bad), None, "{bad:?}");
    }
}

#[test]
fn unicodes_own_domains_are_told_apart_as_it_says() {
    let (mut right, mut wrong) = (0, 0);
    for line in sample(include_str!("samples/idna_test_v2.txt")) {
        let columns: Vec<String> = line.split(';').map(|cell| unescaped(cell.trim())).collect();
        let or = |this: usize, that: usize| match columns[this].as_str() {
            "" => columns[that].clone(),
            text => text.to_owned(),
        };
        let unicode = or(1, 0);
        let ascii = match columns[3].as_str() {
            "" => unicode,
            text => text.to_owned(),
        };
        let faults = or(4, 2);
        // Only these are domains of people's addresses.
        let last = ascii.rsplit_once('.').map_or("", |(_, last)| last);
        let public = last.contains(|c: char| !c.is_ascii_digit());
        let expected = (matches!(faults.as_str(), "" | "[]") && public)
            .then(|| format!("ann@{ascii}"))
            .filter(|address| address.len() <= 254);
        assert_eq!(email(&format!("ann@{}", columns[0])), expected, "{line}");
        if expected.is_some() {
            right += 1;
        } else {
            wrong += 1;
        }
    }
    assert!(right > 40 && wrong > 80, "{right} right, {wrong} wrong");
}

/// With `\u0061` and `\x{61}` as the characters that they stand for.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut unescaped = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (code, rest) = match part.strip_prefix("x{") {
            Some(braced) => braced.split_once('}').unwrap(),
            None => part.strip_prefix('u').unwrap().split_at(4),
        };
        let code = u32::from_str_radix(code, 16).unwrap();
        unescaped.push(char::from_u32(code).unwrap());
        unescaped.push_str(rest);
    }
    unescaped
}

#[test]
fn a_look_alike_is_another_domain_unless_it_is_the_same_letter() {
    let mut others = 0;
    for line in sample(include_str!("samples/confusables.txt")) {
        let (code, rest) = line.split_once(' ').unwrap();
        let (letter, _) = rest.split_once(' ').unwrap();
        let code = u32::from_str_radix(code, 16).unwrap();
        let alike = char::from_u32(code).unwrap();
        let domain = "paypal.example".replacen(letter, &alike.to_string(), 1);
        let same = alike.to_string().nfkc().collect::<String>().to_lowercase() == letter;
        match email(&format!("ann@{domain}")) {
            Some(address) if same => assert_eq!(address, "ann@paypal.example", "{line}"),
            Some(address) => {
                assert_ne!(address, "ann@paypal.example", "{line}");
                others += 1;
            }
            None => assert!(!same, "{line}"),
        }
    }
    assert!(others > 20, "only {others} look-alikes are domains");
}

#[test]
fn a_name_is_one_to_a_hundred_characters_that_people_see() {
    let hangul = "\u{1112}\u{1161}\u{11ab}".repeat(100);
    assert_eq!(hangul.len(), 900);
    for (typed, stored) in [
        (" Ann ", "Ann"),
        ("Zoe\u{308}", "Zo\u{eb}"),
        (hangul.as_str(), &"\u{d55c}".repeat(100)),
        ("محمد", "محمد"),
        ("مُحَمَّد", &"مُحَمَّد".nfc().collect::<String>()),
        ("ا\u{301}", "ا\u{301}"),
        (
            "Ann \u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
            "Ann \u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
        ),
        ("\u{1f1e9}\u{1f1ea}", "\u{1f1e9}\u{1f1ea}"),
        ("1\u{fe0f}\u{20e3}", "1\u{fe0f}\u{20e3}"),
        ("O'Neil-Smith, Jr.", "O'Neil-Smith, Jr."),
        (
            "Nguy\u{1ec5}n\u{a0}Th\u{1ecb}",
            "Nguy\u{1ec5}n\u{a0}Th\u{1ecb}",
        ),
    ] {
        assert_eq!(name(typed).as_deref(), Some(stored), "{typed:?}");
    }
    for bad in [
        "",
        "  ",
        "a\nb",
        "a\tb",
        "\u{9f}x",
        "a\u{2028}b",
        "\u{200b}",
        "\u{200d}",
        "Ann\u{200b}",
        "An\u{ad}n",
        "\u{feff}Ann",
        "An\u{34f}n",
        "\u{202e}nnA",
        "Ann\u{200f}",
        "\u{2066}Ann\u{2069}",
        "Ann\u{61c}",
        "Ann \u{fffc}",
        "An\u{fffd}",
        "Ann \u{e000}",
        "Ann \u{f0000}",
        "Ann \u{378}",
        "Ann \u{fdd0}",
        "Ann \u{10ffff}",
        "\u{301}",
        "\u{2800}",
        "\u{3164}",
        "Ann\u{3164}",
        // Text in tags, which nobody sees.
        "\u{1f600}\u{e0068}\u{e0069}",
        &"x".repeat(101),
        &"\u{fb2c}".repeat(40),
        &"x".repeat(10_000),
    ] {
        assert_eq!(name(bad), None, "{bad:?}");
    }
}

#[test]
fn no_character_is_longer_than_the_bound_allows_before_composition() {
    let longest = (char::MIN..=char::MAX).map(|c| c.nfd().map(char::len_utf8).sum::<usize>());
    // Those that stay decomposed are longer, and several characters to us.
    let composed = (char::MIN..=char::MAX)
        .zip(longest)
        .filter(|(c, _)| c.nfc().count() == 1);
    assert_eq!(composed.map(|(_, length)| length).max(), Some(12));
}

#[test]
fn neither_is_shown_by_debug() {
    let shown = format!(
        "{:?}{:?}",
        Email::parse("ann@example.com").unwrap(),
        DisplayName::parse("Ann").unwrap()
    );
    assert!(!shown.to_lowercase().contains("ann"), "{shown}");
}

/// Characters from everywhere, those that the rules name more often.
fn character() -> impl Strategy<Value = char> {
    let special = "\u{200b}\u{200c}\u{200d}\u{ad}\u{fe0f}\u{94d}\u{301}\u{3c3}\u{3a3}\u{3c2}\u{130}\u{df}\
        \u{1e9e}\u{ff21}\u{ff76}\u{ff9e}\u{ff20}\u{ff0e}\u{3002}\u{1112}\u{1161}\u{11ab}\u{1f469}\u{4f60}\
        \"\\ .@-aA1";
    let special: Vec<char> = special.chars().collect();
    prop_oneof![3 => proptest::sample::select(special), 2 => any::<char>(), 2 => proptest::char::range('a', 'z')]
}

fn text(length: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    vec(character(), length).prop_map(|characters| characters.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// So that a stored address finds itself, and an answer can be sent back as a request.
    #[test]
    fn an_address_is_its_own_form_and_so_are_its_other_spellings(
        local in text(1..12), domain in text(1..12),
    ) {
        let typed = format!("{local}@{domain}.example");
        let stored = email(&typed);
        prop_assert_eq!(email(&typed.nfd().collect::<String>()), stored.clone());
        if let Some(stored) = stored {
            prop_assert_eq!(email(&stored), Some(stored.clone()));
            prop_assert!(stored.len() <= 254 && stored.rsplit_once('@').is_some_and(|(_, d)| d.is_ascii()));
        }
    }

    #[test]
    fn a_name_is_its_own_form_however_it_was_composed(typed in text(1..110)) {
        let stored = name(&typed);
        prop_assert_eq!(name(&typed.nfd().collect::<String>()), stored.clone());
        if let Some(stored) = stored {
            prop_assert_eq!(name(&stored), Some(stored.clone()));
            prop_assert!(stored.chars().count() <= 100 && stored.nfc().eq(stored.chars()));
        }
    }

    /// Nothing that is sent makes it panic.
    #[test]
    fn any_text_is_an_answer(typed in any::<String>()) {
        let (_, _) = (email(&typed), name(&typed));
    }
}
