//! Coupon codes: readable, and free of characters that people take for one another.

use couponmesh_runtime::Random;

/// Crockford's base 32: no I, L, O and U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Draws a code such as `WELCOME-7K3M-9QXD`: one of 2^40, so that guessing one is hopeless and two alike are rare.
#[must_use]
pub fn draw(random: &Random) -> String {
    let group = || -> String {
        (0..4)
            .map(|_| char::from(ALPHABET[random.below(ALPHABET.len())]))
            .collect()
    };
    format!("WELCOME-{}-{}", group(), group())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_readable() {
        let code = draw(&Random::seeded(1));
        let groups: Vec<&str> = code.split('-').collect();
        assert_eq!(
            (groups[0], groups[1].len(), groups[2].len(), groups.len()),
            ("WELCOME", 4, 4, 3)
        );
        assert!(
            code.bytes()
                .skip(8)
                .all(|b| b == b'-' || ALPHABET.contains(&b)),
            "{code}"
        );
    }
}
