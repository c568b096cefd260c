//! What a person can see in a text, by Unicode's own tables.

use icu_properties::{
    CodePointMapData, CodePointSetData,
    props::{
        CanonicalCombiningClass, DefaultIgnorableCodePoint, Emoji, EmojiModifier,
        ExtendedPictographic, GeneralCategory, GeneralCategoryGroup, Ideographic, JoiningType,
        PrependedConcatenationMark, VariationSelector,
    },
};

const ZERO_WIDTH_NON_JOINER: char = '\u{200c}';
const ZERO_WIDTH_JOINER: char = '\u{200d}';

/// Drawn as nothing, which no property says of them: BRAILLE PATTERN BLANK, NULL NOTEHEAD and two
/// blanks of Egyptian hieroglyphs.
const BLANK: [char; 4] = ['\u{2800}', '\u{1d159}', '\u{13441}', '\u{13442}'];

/// What is wrong with `text` wherever it stands, as a field's violation says it.
///
/// Invisible characters are right where scripts and emoji need them: joiners between what they
/// join, and variation selectors behind what has variants. Bidi controls, soft hyphens and fillers
/// have no such place.
pub(super) fn fault(text: &str) -> Option<&'static str> {
    let characters: Vec<char> = text.chars().collect();
    (0..characters.len()).find_map(|at| {
        let (before, rest) = characters.split_at(at);
        let (&c, after) = rest.split_first()?;
        if ignorable(c) {
            let placed = has_variants(before, c) || joins(before, c, after);
            return (!placed).then_some(INVISIBLE);
        }
        undefined(c)
    })
}

/// The same for texts that people compare and type: nothing invisible is right in them, and no
/// space but ASCII's.
pub(super) fn fault_of_identifier(text: &str) -> Option<&'static str> {
    text.chars().find_map(|c| {
        let blank = c != ' ' && GeneralCategoryGroup::Separator.contains(category(c));
        if blank || ignorable(c) || BLANK.contains(&c) {
            return Some(INVISIBLE);
        }
        undefined(c)
    })
}

const INVISIBLE: &str = "must not contain invisible characters";

/// Whether a person sees something of it by itself.
pub(super) fn is_visible(c: char) -> bool {
    let draws = GeneralCategoryGroup::Letter
        .union(GeneralCategoryGroup::Number)
        .union(GeneralCategoryGroup::Punctuation)
        .union(GeneralCategoryGroup::Symbol);
    draws.contains(category(c)) && !ignorable(c) && !BLANK.contains(&c)
}

fn category(c: char) -> GeneralCategory {
    CodePointMapData::<GeneralCategory>::new().get(c)
}

/// No text has a use for these: a program went wrong, or it means to deceive.
fn undefined(c: char) -> Option<&'static str> {
    match (c, category(c)) {
        ('\u{fffc}' | '\u{fffd}', _) => {
            Some("must not contain the stand-ins for objects and broken characters")
        }
        (
            _,
            GeneralCategory::Control
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator,
        ) => Some("must not contain control characters"),
        (
            _,
            GeneralCategory::Unassigned | GeneralCategory::PrivateUse | GeneralCategory::Surrogate,
        ) => Some("must not contain characters that Unicode does not define"),
        _ => None,
    }
}

/// Changes how others are drawn, or nothing. A character that is not assigned counts as undefined.
fn ignorable(c: char) -> bool {
    match category(c) {
        GeneralCategory::Unassigned => false,
        // Arabic signs that enclose a number are drawn.
        GeneralCategory::Format => {
            !CodePointSetData::new::<PrependedConcatenationMark>().contains(c)
        }
        _ => CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c),
    }
}

/// Whether `c` chooses a variant of the emoji, ideograph or joining letter before it.
fn has_variants(before: &[char], c: char) -> bool {
    CodePointSetData::new::<VariationSelector>().contains(c)
        && before.last().is_some_and(|&base| {
            CodePointSetData::new::<Emoji>().contains(base)
                || CodePointSetData::new::<Ideographic>().contains(base)
                || is_joining(base)
        })
}

/// Whether `c` is a joiner between what can be joined or kept apart (RFC 5892, A.1 and A.2; UAX 29,
/// GB11).
fn joins(before: &[char], c: char, after: &[char]) -> bool {
    if !matches!(c, ZERO_WIDTH_NON_JOINER | ZERO_WIDTH_JOINER) {
        return false;
    }
    // Bengali has a joiner before the virama, too.
    let conjunct = before.last().is_some_and(|&c| is_virama(c))
        || before.last().is_some_and(|&c| is_visible(c))
            && after.first().is_some_and(|&c| is_virama(c));
    let cursive = first_but(before.iter().rev(), is_transparent).is_some_and(is_joining)
        && first_but(after.iter(), is_transparent).is_some_and(is_joining);
    let emoji = c == ZERO_WIDTH_JOINER
        && first_but(before.iter().rev(), modifies_emoji).is_some_and(is_pictograph)
        && after.first().is_some_and(|&c| is_pictograph(c));
    conjunct || cursive || emoji
}

/// The first character that `skipped` is not true of.
fn first_but<'a>(
    characters: impl Iterator<Item = &'a char>,
    skipped: fn(char) -> bool,
) -> Option<char> {
    let mut characters = characters.copied();
    characters.find(|&c| !skipped(c))
}

fn is_virama(c: char) -> bool {
    CodePointMapData::<CanonicalCombiningClass>::new().get(c) == CanonicalCombiningClass::Virama
}

fn joining_type(c: char) -> JoiningType {
    CodePointMapData::<JoiningType>::new().get(c)
}

fn is_transparent(c: char) -> bool {
    joining_type(c) == JoiningType::Transparent
}

/// A letter of a cursive script.
fn is_joining(c: char) -> bool {
    matches!(
        joining_type(c),
        JoiningType::DualJoining | JoiningType::LeftJoining | JoiningType::RightJoining
    )
}

fn is_pictograph(c: char) -> bool {
    CodePointSetData::new::<ExtendedPictographic>().contains(c)
}

fn modifies_emoji(c: char) -> bool {
    CodePointSetData::new::<EmojiModifier>().contains(c)
        || CodePointSetData::new::<VariationSelector>().contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joiners_and_selectors_are_right_where_scripts_and_emoji_need_them() {
        for right in [
            "می\u{200c}خواهم",                     // Persian
            "क्\u{200d}ष",                          // Devanagari: half a letter
            "ශ්\u{200d}රී",                          // Sinhala
            "র\u{200d}্যাব",                         // Bengali: before the virama
            "അവന്\u{200d}",                         // Malayalam, at the end
            "\u{1f469}\u{1f3fd}\u{200d}\u{1f4bb}", // woman, skin tone, computer
            "\u{1f3f3}\u{fe0f}\u{200d}\u{1f308}",  // rainbow flag
            "❤\u{fe0f}",
            "葛\u{e0100}城", // a registered variant of a kanji
            "ᠠ\u{180b}",     // Mongolian
        ] {
            assert_eq!(fault(right), None, "{}", right.escape_unicode());
        }
        for wrong in [
            "a\u{200d}b",
            "\u{200d}",
            "a\u{200c}b",
            "می\u{200c}",
            "می\u{200c}\u{200c}خواهم",
            "\u{200d}\u{1f4bb}",
            "\u{1f469}\u{200d}",
            "a\u{fe0f}",
            "❤\u{fe0f}\u{fe0f}",
            "\u{fe0f}",
        ] {
            assert_eq!(fault(wrong), Some(INVISIBLE), "{}", wrong.escape_unicode());
        }
    }

    #[test]
    fn blanks_are_not_visible() {
        let blanks = " \u{a0}\u{3000}\u{301}\u{200b}\u{3164}\u{115f}\u{ad}";
        let blanks = blanks.chars().chain(BLANK);
        let seen: Vec<char> = blanks.filter(|&c| is_visible(c)).collect();
        assert_eq!(seen, [' '; 0]);
        assert!("aé한字1-\u{1f600}".chars().all(is_visible));
    }
}
