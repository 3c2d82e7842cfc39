/* The member directory: one holder of the lock, and whatever point of an activation a crash hits,
 * the old state or the new one is there as a whole. */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "stored/stored_dir.h"

static char root[64];
static struct stored_dir dir;

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static void setup(void)
{
    snprintf(root, sizeof(root), "/tmp/test_stored_dir.XXXXXX");
    cr_assert_not_null(mkdtemp(root));
    cr_assert_eq(stored_dir_open(&dir, root), 0);
    cr_assert_eq(stored_dir_lock(&dir), 0);
}

static void teardown(void)
{
    stored_dir_close(&dir);
    nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

TestSuite(stored_dir, .init = setup, .fini = teardown);

/* A state is a directory with two files that say which state it is. */
static void put_state(const char *path, const char *which)
{
    mkdir(path, 0700);
    for (int i = 0; i < 2; i++) {
        CLEANUP(freep) char *file = xasprintf("%s/%d", path, i);
        int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        cr_assert_geq(fd, 0);
        cr_assert_eq(write(fd, which, 3), 3);
        close(fd);
    }
}

/* Both files of db say `which`; NULL: db is empty. */
static void check_state(const char *which)
{
    for (int i = 0; i < 2; i++) {
        CLEANUP(freep) char *file = xasprintf("%s/%d", dir.db, i);
        char got[4] = "";
        int fd = open(file, O_RDONLY | O_CLOEXEC);

        if (which == NULL) {
            cr_assert_eq(fd, -1);
            continue;
        }
        cr_assert_geq(fd, 0);
        cr_assert_eq(read(fd, got, 3), 3);
        cr_assert_str_eq(got, which);
        close(fd);
    }
}

static void check_nothing_else(void)
{
    cr_assert_neq(access(dir.recv, F_OK), 0);
    cr_assert_neq(access(dir.staged, F_OK), 0);
    cr_assert_neq(access(dir.old, F_OK), 0);
}

Test(stored_dir, a_crash_during_activation_leaves_one_whole_state)
{
    static const struct {
        int steps;
        const char *after;
    } rows[] = {{0, "old"}, {1, "new"}, {2, "new"}, {3, "new"}};

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        put_state(dir.db, "old");
        cr_assert_eq(stored_dir_recv_begin(&dir), 0);
        put_state(dir.recv, "new");
        cr_assert_eq(stored_dir_recv_stage(&dir), 0);
        cr_assert_eq(stored_dir_activate_steps(&dir, rows[i].steps), 0);
        cr_assert_eq(stored_dir_recover(&dir), 0);
        check_state(rows[i].after);
        check_nothing_else();
        /* and again: recovery has nothing left to do */
        cr_assert_eq(stored_dir_recover(&dir), 0);
        check_state(rows[i].after);
    }
}

Test(stored_dir, an_unstaged_state_is_dropped)
{
    put_state(dir.db, "old");
    cr_assert_eq(stored_dir_recv_begin(&dir), 0);
    put_state(dir.recv, "new");
    cr_assert_eq(stored_dir_recover(&dir), 0);
    check_state("old");
    check_nothing_else();
}

Test(stored_dir, only_old_left_is_taken_back)
{
    put_state(dir.old, "old");
    cr_assert_eq(stored_dir_recover(&dir), 0);
    check_state("old");
}

Test(stored_dir, a_leftover_old_does_not_stop_the_next_activation)
{
    put_state(dir.db, "one");
    put_state(dir.old, "zro");
    cr_assert_eq(stored_dir_recv_begin(&dir), 0);
    put_state(dir.recv, "two");
    cr_assert_eq(stored_dir_recv_stage(&dir), 0);
    cr_assert_eq(stored_dir_activate(&dir), 0);
    check_state("two");
}

Test(stored_dir, a_new_member_has_an_empty_private_db)
{
    struct stat st;

    cr_assert_eq(stored_dir_recover(&dir), 0);
    check_state(NULL);
    cr_assert_eq(stat(dir.path, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0700);
    cr_assert_eq(stat(dir.db, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0700);
}

Test(stored_dir, the_lock_has_one_holder)
{
    struct stored_dir other;

    cr_assert_eq(stored_dir_open(&other, root), 0);
    cr_assert_eq(stored_dir_lock(&other), -EWOULDBLOCK);
    cr_assert_eq(stored_dir_lock(&other), -EWOULDBLOCK);
    stored_dir_close(&dir);
    cr_assert_eq(stored_dir_lock(&other), 0);
    stored_dir_close(&other);
}

Test(stored_dir, a_data_dir_that_is_a_file_is_an_error)
{
    struct stored_dir other;
    CLEANUP(freep) char *file = xasprintf("%s/file", root);
    int fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    close(fd);
    cr_assert_lt(stored_dir_open(&other, file), 0);
    stored_dir_close(&other);
}
