/*
 * mkdtemp under the first base that exists and leaves room for the longest socket name.
 */
#include "supervisor/rundir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

static const char name_prefix[] = "conclave-";

/* 107 bytes less "/raftd.stored" and room for longer names to come */
enum { RUN_DIR_BYTES_MAX = 80 };

static int try_base(const char *base, char **ret_path)
{
    CLEANUP(freep) char *path = xasprintf("%s/%sXXXXXX", base, name_prefix);

    if (strlen(path) > RUN_DIR_BYTES_MAX)
        return -ENAMETOOLONG;
    if (mkdtemp(path) == NULL)
        return -errno;
    *ret_path = TAKE(path);
    return 0;
}

int rundir_create(const char *base, char **ret_path, char **ret_why)
{
    const char *runtime = getenv("RUNTIME_DIRECTORY"), *xdg = getenv("XDG_RUNTIME_DIR");
    CLEANUP(freep) char *first = NULL;
    const char *bases[3];
    size_t count = 0;
    int r = -ENOENT;

    if (*base != '\0') {
        bases[count++] = base;
    } else {
        if (runtime != NULL && *runtime != '\0') {
            first = xstrndup(runtime, strcspn(runtime, ":")); /* systemd may list several */
            bases[count++] = first;
        }
        if (xdg != NULL && *xdg != '\0')
            bases[count++] = xdg;
        bases[count++] = "/tmp";
    }
    for (size_t i = 0; i < count; i++) {
        r = try_base(bases[i], ret_path);
        if (r == 0)
            return 0;
    }
    *ret_why = xasprintf("cannot make a run directory in %s: %s", bases[count - 1], strerror(-r));
    return r;
}

void rundir_remove(const char *path)
{
    const char *name = strrchr(path, '/');
    CLEANUP(closep) int fd = -1;
    const struct dirent *e;
    struct stat st;
    DIR *dir;

    if (name == NULL || strncmp(name + 1, name_prefix, strlen(name_prefix)) != 0)
        return;
    fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0 || st.st_uid != geteuid() || (st.st_mode & 077) != 0)
        return;
    dir = fdopendir(dup(fd));
    if (dir == NULL)
        return;
    while ((e = readdir(dir)) != NULL) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            unlinkat(fd, e->d_name, 0);
    }
    closedir(dir);
    rmdir(path);
}
