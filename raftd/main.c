#include "raftd/raftd.h"

int main(int argc, char **argv)
{
    return daemon_main(&raftd_info, argc, argv);
}
