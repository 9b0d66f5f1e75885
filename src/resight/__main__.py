from resight.cli.app import main

main()
