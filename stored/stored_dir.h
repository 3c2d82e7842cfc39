/*
 * The member directory on disk: who may write to it, and which state in it is the member's.
 *
 *   <data-dir>/member/db.lock    flock: held for the life of the process that may write
 *   <data-dir>/member/db         the state (LevelDB and its checkpoint files)
 *   <data-dir>/member/db.recv    a state being received; worthless until it is staged
 *   <data-dir>/member/db.staged  received, verified and synced; the member's after activation
 *   <data-dir>/member/db.old     the former state, on its way out
 *
 * Activation is two renames, db -> db.old and db.staged -> db, each durable before the next step.
 * What a crash leaves, and what stored_dir_recover makes of it:
 *
 *   db           | others             | member's state
 *   -------------+--------------------+--------------------------------------------------
 *   there        | recv, staged       | db: not activated; both are dropped, raftd sends again
 *   there        | old                | db: activated; old is dropped
 *   not there    | staged             | staged becomes db: activation had begun (with old),
 *                |                    | or it is the member's first state
 *   not there    | old, no staged     | old becomes db (cannot arise by a crash, loses nothing)
 *   not there    | none               | a new, empty db
 */
#ifndef CONCLAVE_STORED_STORED_DIR_H
#define CONCLAVE_STORED_STORED_DIR_H

struct stored_dir {
    char *path; /* <data-dir>/member */
    char *db;   /* the four below it */
    char *recv;
    char *staged;
    char *old;
    int fd; /* of path */
    int lock_fd;
};
#define STORED_DIR_NONE ((struct stored_dir){.fd = -1, .lock_fd = -1})

/* Makes <data_dir>/member (0700) where absent. 0 or negative errno. */
int stored_dir_open(struct stored_dir *d, const char *data_dir);
void stored_dir_close(struct stored_dir *d); /* releases the lock; accepts STORED_DIR_NONE */

/* 0, -EWOULDBLOCK when another process holds it, or negative errno. */
int stored_dir_lock(struct stored_dir *d);

/* With the lock held, before the state is opened. 0 or negative errno. */
int stored_dir_recover(struct stored_dir *d);

/* Makes an empty db.recv. */
int stored_dir_recv_begin(struct stored_dir *d);
/* db.recv, complete and its files synced, becomes db.staged. */
int stored_dir_recv_stage(struct stored_dir *d);
/* Drops db.recv and db.staged. */
int stored_dir_recv_drop(struct stored_dir *d);
/* db.staged becomes db; the state in db must be closed. */
int stored_dir_activate(struct stored_dir *d);
/* The first `steps` steps of it only, as a crash would leave it: for tests. */
int stored_dir_activate_steps(struct stored_dir *d, int steps);

#endif
