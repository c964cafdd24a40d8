//! Numbers that can be reduced, and how.

/// How two numbers become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// The sum; integers wrap.
    Sum,
    /// The product; integers wrap.
    Product,
    /// The smaller; a NaN loses against a number.
    Min,
    /// The larger; a NaN loses against a number.
    Max,
    /// Bitwise and: integers only.
    And,
    /// Bitwise or: integers only.
    Or,
    /// Bitwise exclusive or: integers only.
    Xor,
}

/// A number that can be reduced: `i32`, `u32`, `i64`, `u64`, `f32`, `f64`.
pub trait Element: Copy + 'static {
    /// Its bytes in memory.
    const BYTES: usize;
    /// Whether it knows the operation: floating-point numbers know no bitwise ones.
    fn knows(operation: Operation) -> bool;
    /// Combines two. An operation that it does not know leaves the first as it is.
    fn combine(operation: Operation, a: Self, b: Self) -> Self;
    /// Writes numbers as they lie in memory. As many as there is room for.
    fn put(numbers: &[Self], into: &mut [u8]);
    /// Combines each number with the one that lies in memory, the latter being the second operand.
    fn fold(operation: Operation, numbers: &mut [Self], from: &[u8]);
    /// Replaces numbers by those in memory.
    fn take(numbers: &mut [Self], from: &[u8]);
}

macro_rules! element {
    ($number:ty, $sum:expr, $product:expr, $knows:expr, $bitwise:expr) => {
        impl Element for $number {
            const BYTES: usize = size_of::<$number>();
            fn knows(operation: Operation) -> bool {
                $knows || !matches!(operation, Operation::And | Operation::Or | Operation::Xor)
            }
            #[inline(always)]
            fn combine(operation: Operation, a: Self, b: Self) -> Self {
                match operation {
                    Operation::Sum => $sum(a, b),
                    Operation::Product => $product(a, b),
                    Operation::Min => a.min(b),
                    Operation::Max => a.max(b),
                    bitwise => $bitwise(bitwise, a, b),
                }
            }
            fn put(numbers: &[Self], into: &mut [u8]) {
                for (to, number) in into.chunks_exact_mut(Self::BYTES).zip(numbers) {
                    to.copy_from_slice(&number.to_ne_bytes());
                }
            }
            fn fold(operation: Operation, numbers: &mut [Self], from: &[u8]) {
                for (number, bytes) in numbers
                    .iter_mut()
                    .zip(from.as_chunks::<{ size_of::<$number>() }>().0)
                {
                    *number = Self::combine(operation, *number, <$number>::from_ne_bytes(*bytes));
                }
            }
            fn take(numbers: &mut [Self], from: &[u8]) {
                for (number, bytes) in numbers
                    .iter_mut()
                    .zip(from.as_chunks::<{ size_of::<$number>() }>().0)
                {
                    *number = <$number>::from_ne_bytes(*bytes);
                }
            }
        }
    };
}

macro_rules! integer {
    ($($number:ty),*) => { $(
        element!(
            $number,
            <$number>::wrapping_add,
            <$number>::wrapping_mul,
            true,
            |operation, a: $number, b: $number| match operation {
                Operation::And => a & b,
                Operation::Or => a | b,
                _ => a ^ b,
            }
        );
    )* };
}

macro_rules! float {
    ($($number:ty),*) => { $(
        element!($number, |a, b| a + b, |a, b| a * b, false, |_, a, _| a);
    )* };
}

integer!(i32, u32, i64, u64);
float!(f32, f64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_of_every_type() {
        use Operation::*;
        let all = [Sum, Product, Min, Max, And, Or, Xor];
        assert_eq!(all.map(|o| i32::combine(o, 6, -3)), [3, -18, -3, 6, 4, -1, -5]);
        assert_eq!(all.map(|o| u32::combine(o, 6, 3)), [9, 18, 3, 6, 2, 7, 5]);
        assert_eq!(all.map(|o| i64::combine(o, 6, -3)), [3, -18, -3, 6, 4, -1, -5]);
        assert_eq!(all.map(|o| u64::combine(o, 6, 3)), [9, 18, 3, 6, 2, 7, 5]);
        assert_eq!(
            all[..4].iter().map(|o| f32::combine(*o, 0.5, -2.0)).sum::<f32>(),
            -4.0
        );
        assert_eq!(
            all[..4].iter().map(|o| f64::combine(*o, 0.5, -2.0)).sum::<f64>(),
            -4.0
        );
        assert_eq!(u32::combine(Sum, u32::MAX, 2), 1);
        assert_eq!(f64::combine(Min, f64::NAN, 1.0), 1.0);
        assert!(i32::knows(Xor) && f32::knows(Max) && !f64::knows(And));
    }

    #[test]
    fn numbers_lie_in_memory_as_they_are() {
        let mut memory = [0; 24];
        f64::put(&[1.5, -2.0, 8.0], &mut memory);
        let mut numbers = [1.0, 1.0, 1.0];
        f64::fold(Operation::Sum, &mut numbers, &memory);
        assert_eq!(numbers, [2.5, -1.0, 9.0]);
        f64::take(&mut numbers, &memory);
        assert_eq!(numbers, [1.5, -2.0, 8.0]);
    }
}
