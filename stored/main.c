/* stored: the replicated state machine. See stored/README.md. */
#include "lib/daemon/daemon.h"
#include "lib/loop/loop.h"
#include "stored/stored.h"

struct stored_process {
    struct stored stored; /* first: reached from callbacks */
    struct daemon *daemon;
};

static void on_ready(void *user)
{
    struct stored_process *p = user;

    daemon_ready(p->daemon);
}

static void on_stopped(void *user)
{
    struct stored_process *p = user;

    daemon_stopped(p->daemon);
}

static void on_fatal(void *user, const char *text)
{
    struct stored_process *p = user;

    daemon_fatal(p->daemon, "%s", text);
}

static int process_init(void *state, struct daemon *d)
{
    struct stored_process *p = state;

    p->daemon = d;
    stored_tune_malloc();
    return stored_open(&p->stored, &(struct stored_args){
                                       .loop = daemon_loop(d),
                                       .conf = daemon_conf(d),
                                       .run_dir = daemon_common(d)->run_dir,
                                       .generation = daemon_common(d)->generation,
                                       .ready = on_ready,
                                       .stopped = on_stopped,
                                       .fatal = on_fatal,
                                       .user = p,
                                   });
}

static int process_start(void *state, struct daemon *d)
{
    struct stored_process *p = state;

    return stored_start(&p->stored);
}

static int process_reload(void *state, struct daemon *d)
{
    struct stored_process *p = state;

    stored_reload(&p->stored, daemon_conf(d));
    return 0;
}

static void process_stop(void *state)
{
    struct stored_process *p = state;

    stored_stop(&p->stored);
}

static void process_fini(void *state)
{
    struct stored_process *p = state;

    stored_close(&p->stored);
}

static const struct daemon_info stored_info = {
    .name = "stored",
    .summary = "keyspace and reads",
    .conf = stored_conf_fields,
    .conf_size = sizeof(struct stored_conf),
    .state_size = sizeof(struct stored_process),
    .init = process_init,
    .start = process_start,
    .reload = process_reload,
    .stop = process_stop,
    .fini = process_fini,
};

int main(int argc, char **argv)
{
    return daemon_main(&stored_info, argc, argv);
}
