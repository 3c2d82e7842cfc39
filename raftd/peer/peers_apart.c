/*
 * Some of nng's calls may block for ever (nng_close, when the other side closes too). They run in
 * threads of their own, "apart"; what such a thread never gives back is left to the process.
 */
#include <stdlib.h>
#include <time.h>
#include "lib/util/xmalloc.h"
#include "raftd/peer/peers_internal.h"

enum { STOP_WAIT_MS = 500 };

void peers_run_close_socket(struct errand *e)
{
    nng_close(e->sock);
    if (e->aio != NULL) {
        nng_aio_stop(e->aio);
        nng_aio_free(e->aio);
    }
    free(e->ref);
}

static void *run_errand(void *arg)
{
    struct errand *e = arg;
    struct peers *p = e->peers;

    e->run(e);
    free(e);
    pthread_mutex_lock(&p->lock);
    p->apart--;
    pthread_cond_signal(&p->apart_ended); /* with the lock: whoever waits frees p */
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

void peers_run_apart(const struct errand *errand)
{
    struct errand *e = xmalloc(sizeof(*e));
    pthread_t thread;

    *e = *errand;
    pthread_mutex_lock(&e->peers->lock);
    e->peers->apart++;
    pthread_mutex_unlock(&e->peers->lock);
    if (pthread_create(&thread, NULL, run_errand, e) != 0)
        run_errand(e);
    else
        pthread_detach(thread);
}

bool peers_wait_for_apart(struct peers *p)
{
    struct timespec end;
    bool all;

    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += (end.tv_nsec + STOP_WAIT_MS * 1000000L) / 1000000000;
    end.tv_nsec = (end.tv_nsec + STOP_WAIT_MS * 1000000L) % 1000000000;
    pthread_mutex_lock(&p->lock);
    while (p->apart > 0 && pthread_cond_timedwait(&p->apart_ended, &p->lock, &end) == 0)
        ;
    all = p->apart == 0;
    pthread_mutex_unlock(&p->lock);
    return all;
}
