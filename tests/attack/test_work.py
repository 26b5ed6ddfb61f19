"""What walls are not to keep anybody from: the work that sandboxes are for."""

import pytest

from attack import REMOTE

WORK = {
    "a package is installed and removed": """
        mkdir -p p/DEBIAN p/usr/share/mine && echo mine > p/usr/share/mine/file
        printf '%s\\n' 'Package: mine' 'Version: 1' 'Architecture: all' \\
            'Maintainer: me <m@e>' 'Description: mine' > p/DEBIAN/control
        printf '#!/bin/sh\\nuseradd --system mine\\n' > p/DEBIAN/postinst
        chmod 755 p/DEBIAN/postinst
        dpkg-deb --build p mine.deb && sudo dpkg -i mine.deb
        cat /usr/share/mine/file && id mine && sudo dpkg -P mine""",
    "users are made and become others": """
        sudo useradd --create-home other && sudo -u other sh -c 'touch ~/file && id'
        sudo su - other -c 'ls -l file' && sudo userdel -r other""",
    "files are given away and closed": """
        touch f && sudo chown root:daemon f && sudo chmod 4750 f
        sudo chown user f && sudo rm f""",
    "a low port is listened on": """
        sudo python3 -c 'import socket; socket.create_server(("127.0.0.1", 80)).close()'""",
    "processes work together": """
        python3 - <<'END'
import multiprocessing, shutil, subprocess, threading
assert sum(multiprocessing.Pool(4).map(abs, range(-9, 1))) == 45
one = threading.Thread(target=lambda: None); one.start(); one.join()
subprocess.run(["true"], check=True, start_new_session=True)
END""",
    "node has workers": """
        node -e 'const {Worker} = require("worker_threads");
            new Worker("require(\\"fs\\").statSync(\\"/\\")", {eval: true})
                .on("exit", code => process.exit(code))'""",
    "git keeps what it is told": """
        git init -q r && cd r && git config user.email a@b && git config user.name a
        echo x > f && git add f && git commit -qm x && git log --oneline && git gc -q""",
    "a root is changed into": """
        mkdir -p root/bin root/lib64 root/lib && cp -L /bin/true root/bin/
        for lib in $(ldd /bin/true | grep -o '/[^ ]*'); do
            mkdir -p root$(dirname $lib) && cp -L $lib root$lib; done
        sudo chroot root /bin/true""",
    "archives are unpacked with their owners": """
        sudo tar -C /etc -cf e.tar passwd group
        mkdir e && sudo tar -C e -xpf e.tar && ls -l e""",
    "a program is traced by its own user": """
        python3 - <<'END'
import ctypes, os, signal
libc = ctypes.CDLL(None)
child = os.fork()
if child == 0:
    libc.ptrace(0, 0, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
    os._exit(7)
os.waitpid(child, 0)
assert libc.ptrace(7, child, 0, 0) == 0
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
END""",
}

# By Linux's own programs, libraries and numbers.
LINUX = {
    "a package is installed and removed",
    "users are made and become others",
    "a root is changed into",
    "a program is traced by its own user",
}

PROGRAMS = {"node has workers": "node", "git keeps what it is told": "git"}


@pytest.mark.parametrize(
    "what", [pytest.param(it, marks=[pytest.mark.linux] * (it in LINUX)) for it in WORK]
)
@pytest.mark.parametrize("world", [()], ids=["held"], indirect=True)
def test_ordinary_work_goes_on(world, what):
    program = PROGRAMS.get(what, "sh")
    if REMOTE and not world.attacker.commands.run(f"command -v {program} || :").stdout:
        pytest.skip(f"its template has no {program}")
    directory = f"/tmp/work{list(WORK).index(what)}"
    world.attacker.commands.run(f"mkdir {directory}")
    world.attacker.files.write(f"{directory}/work", WORK[what])
    done = world.attacker.commands.run("bash -euo pipefail work", cwd=directory, timeout=50)
    print(done.stdout, done.stderr)
