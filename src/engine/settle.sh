# Apt and dpkg brought to rest, before the container is inspected.
take_turn 900
wait_until_up 60
settle_dpkg 300
say end
