/* conclavectl: one command, one run of the loop. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "ctl/ctl.h"
#include "lib/loop/loop.h"

int main(int argc, char **argv)
{
    static struct ctl_args args;
    struct ctl c = {.args = &args, .help = &ctl_help, .argc = argc, .argv = argv};
    char *why = NULL;
    enum ctl_parse r;
    bool complete = argc > 1 && strncmp(argv[1], "__complete", 10) == 0;

    signal(SIGPIPE, SIG_IGN);
    if (complete) { /* what is being typed is not to be parsed */
        ctl_help_complete(stdout, c.help, strcmp(argv[1], "__complete") == 0,
                          (const char *const *)argv + 2, (size_t)argc - 2);
        ctl_exit(CTL_EXIT_SUCCESS);
    }
    r = ctl_args_parse(&ctl_root, ctl_global_flags, (const char *const *)argv + 1,
                       (size_t)(argc > 0 ? argc - 1 : 0), &args, &why);
    if (r == CTL_PARSE_UNKNOWN_COMMAND) {
        fprintf(stderr, "Error: %s\nRun '%s --help' for usage.\nError: %s\n", why, c.help->program,
                why);
        ctl_exit(CTL_EXIT_ERROR);
    }
    if (r == CTL_PARSE_BAD_FLAG) {
        ctl_help_print(stdout, c.help, args.path, args.depth);
        fflush(stdout);
        fprintf(stderr, "Error: %s\n\nError: %s\n", why, why);
        ctl_exit(CTL_EXIT_ERROR);
    }
    if (ctl_args_bool(&args, "help") || args.command->run == NULL) {
        ctl_help_print(stdout, c.help, args.path, args.depth);
        ctl_exit(CTL_EXIT_SUCCESS);
    }
    c.loop = loop_new();
    if (c.loop == NULL)
        ctl_die(CTL_EXIT_ERROR, "no descriptors left");
    ctl_exit(args.command->run(&c, &args));
}
