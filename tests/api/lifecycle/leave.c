/* Leaves what only a program can leave: System V and POSIX objects, and a process that nothing but
 * SIGKILL ends, in a session of its own and nobody's child. Its main thread has ended, and another one
 * goes on: /proc shows it as a zombie. */

#include <fcntl.h>
#include <mqueue.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int failed(const char *what)
{
    perror(what);
    return 1;
}

static void *go_on(void *unused)
{
    (void)unused;
    for (;;)
        pause();
    return NULL;
}

int main(int count, char **arguments)
{
    char name[64];
    int signals[] = {SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGUSR1};
    if (count != 2)
        return 2;
    snprintf(name, sizeof name, "/left-%s", arguments[1]);
    if (shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600) < 0)
        return failed("shmget");
    if (semget(IPC_PRIVATE, 2, IPC_CREAT | 0600) < 0)
        return failed("semget");
    if (msgget(IPC_PRIVATE, IPC_CREAT | 0600) < 0)
        return failed("msgget");
    if (mq_open(name, O_CREAT | O_RDWR, 0600, NULL) < 0)
        return failed("mq_open");
    if (shm_open(name, O_CREAT | O_RDWR, 0600) < 0)
        return failed("shm_open");
    if (sem_open(name, O_CREAT, 0600, 1) == SEM_FAILED)
        return failed("sem_open");
    if (fork() == 0) {
        setsid();
        if (fork() == 0) {
            for (unsigned number = 0; number < sizeof signals / sizeof *signals; number++)
                signal(signals[number], SIG_IGN);
            for (int descriptor = 0; descriptor < 64; descriptor++)
                close(descriptor);
            pthread_t thread;
            if (pthread_create(&thread, NULL, go_on, NULL) == 0)
                syscall(SYS_exit, 0);
            _exit(1);
        }
        _exit(0);
    }
    return 0;
}
