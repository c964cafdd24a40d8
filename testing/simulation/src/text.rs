//! What messages say: enough to know each again and to see whether it came whole.

/// A message's text: its number, and bytes that follow from it.
pub(crate) fn text_of(number: u64, more: usize) -> Vec<u8> {
    let mut text = number.to_le_bytes().to_vec();
    text.extend((0..more).map(|i| (number as usize * 7 + i) as u8));
    text
}

/// The number of a message, if its text is whole.
pub(crate) fn number_of(text: &[u8]) -> Result<u64, String> {
    let number = text.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    match number {
        Some(number) if text_of(number, text.len() - 8) == text => Ok(number),
        _ => Err(format!(
            "a message came damaged: {} bytes, number {number:?}",
            text.len()
        )),
    }
}
