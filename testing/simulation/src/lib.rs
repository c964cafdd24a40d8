//! Seeded simulation of back-end, front-ends and clients with crashes at every step.
