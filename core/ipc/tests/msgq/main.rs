//! V-msgq from outside: its rules, a plain model beside it, deaths at every store, a peer that writes rubbish, threads, loom.
mod death;
mod hostile;
mod loom;
mod model;
mod partly;
mod player;
mod rules;
mod stress;
mod waiting;
