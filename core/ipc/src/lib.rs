//! V-sem, V-msgq, wait queues, the robust lock, undo and recovery, as algorithms over construct memory.
