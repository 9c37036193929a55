//! "Did you mean ...?"

/// The candidate nearest to `word`, if one is near enough to be what was meant.
///
/// Near enough is an edit distance of at most a third of the word (at least one): `segmnt_bytes` finds
/// `segment_bytes`, `colour` finds nothing.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The text to append to a message about an unknown `word`; empty when nothing is near.
pub(crate) fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates).map(|found| format!(": did you mean `{found}`?")).unwrap_or_default()
}
